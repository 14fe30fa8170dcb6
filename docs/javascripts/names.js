// Names for what the theme leaves without one: the search box is a dialog, and each block of code has a navigation.
const name = () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  document.querySelectorAll(".md-code__nav").forEach((nav, i) => nav.setAttribute("aria-label", `Code ${i + 1}`))
}
name()
new MutationObserver(name).observe(document.body, { childList: true, subtree: true })
