// The theme's search box is a dialog without a name, which a screen reader would announce as just that.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
