// Small helpers around the document. Text goes in as text: what comes over the wire never becomes markup.

export const at = (id) => document.getElementById(id);

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

export function button(text, label, onClick) {
  const made = element("button", "quiet small", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => !isBusy(made) && onClick(made));
  return made;
}

/** Not `disabled`: that would take the focus away. */
export function busy(made, is) {
  made.setAttribute("aria-disabled", String(is));
}

export const isBusy = (made) => made.getAttribute("aria-disabled") === "true";

/** Tells those who do not see the page. */
export function say(sentence) {
  at("said").textContent = sentence;
}
