// The search compares words by their beginning, so "annotating" would not find "annotate". Here each word of a query
// loses its ending: "annotating" is sent as "annot", which is the beginning of annotate, annotated and annotation.
// The theme's own stemmer does the opposite: it shortens the words of the pages alone, and finds none of the three.
const ending = /(?:ations?|ators?|ating|ate[ds]?|ions?|ings?|ies|e[ds]|(?<![su])s)$/
const stem = word => (/^[\p{L}-]{5,}$/u.test(word) && word.replace(ending, "").length > 3 ? word.replace(ending, "") : word)
const post = Worker.prototype.postMessage
const QUERY = 2 // the type of a message with a query, in the theme's search worker
Worker.prototype.postMessage = function (message, ...rest) {
  const isQuery = message?.type === QUERY && typeof message.data === "string"
  const words = isQuery ? message.data.split(/(\s+)/).map(stem).join("") : undefined
  return post.call(this, isQuery ? { ...message, data: words } : message, ...rest)
}
