// The class guidelines: a page of their own, and a part of the labelling page's dialog. The team's text is inserted as
// text and never as markup.

import { getJson } from "./api.js";
import { make } from "./panel.js";

const EMPTY = { introduction: [], sections: [], domains: {} };

export class Guidelines {
  constructor() {
    this.data = EMPTY;
  }

  // Reads the guidelines again. Throws where they cannot be read.
  async read() {
    this.data = await getJson("guidelines");
  }

  get empty() {
    return !this.data.introduction.length && !this.data.sections.length;
  }

  // The section about a class; undefined where there is none.
  about(domain, value) {
    const isAbout = ({ classes }) => classes.some(([name, of]) => name === domain && of === value);
    const sections = this.data.sections.filter(isAbout);
    return sections.find(({ classes }) => classes.length === 1) ?? sections[0]; // one of this domain alone is closer
  }

  // The values of a domain's classes that have a section.
  classesOf(domain) {
    return new Set(this.data.sections.flatMap(({ classes }) => classes.filter(([name]) => name === domain).map(([, value]) => value)));
  }

  // Elements that show the introduction and the sections. `looks` holds the colours by domain, and `level` is that of a
  // class's heading. With `domain`, only what is about its classes is shown.
  draw(looks, level, domain = null) {
    const shown = this.data.sections.filter(({ classes }) => domain === null || classes.some(([name]) => name === domain));
    const [introduction, ...sections] = [{ blocks: this.data.introduction }, ...shown].map(({ title, classes, blocks }) => {
      const section = make("section", {}, ...drawBlocks(blocks, level + 1));
      if (title === undefined) return section;
      const colours = classes.filter(([name]) => domain === null || name === domain).map(([name, value]) => looks[name].swatch(value));
      section.prepend(make(`h${level}`, { id: idOf(this.data.sections, title) }, ...colours, title));
      section.dataset.title = title;
      return section;
    });
    return this.data.introduction.length ? [introduction, ...sections] : sections;
  }

  // Links to the sections.
  contents() {
    return this.data.sections.map(({ title }) => make("li", {}, make("a", { href: `#${idOf(this.data.sections, title)}` }, title)));
  }
}

const idOf = (sections, title) => `class-${sections.findIndex((section) => section.title === title)}`;

function drawBlocks(blocks, level) {
  const nodes = [];
  for (const { kind, text, picture } of blocks) {
    if (kind === "item" && nodes.at(-1)?.tagName === "UL") nodes.at(-1).append(make("li", {}, text));
    else if (kind === "item") nodes.push(make("ul", {}, make("li", {}, text)));
    else if (kind === "heading") nodes.push(make(`h${level}`, {}, text));
    else if (kind === "picture") nodes.push(drawPicture(text, picture));
    else nodes.push(make("p", {}, text));
  }
  return nodes;
}

function drawPicture(text, picture) {
  const image = make("img", { src: `api/guidelines/pictures/${picture}`, alt: "", loading: "lazy" });
  return make("figure", {}, image, make("figcaption", {}, text));
}
