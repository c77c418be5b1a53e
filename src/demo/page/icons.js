// Small pictures beside steps. Each is one path on a grid of 24.

const PATHS = {
  page: "M6 3h8l4 4v14H6zM14 3v4h4",
  paid: "M3 7h18v11H3zM3 11h18",
  declined: "M3 7h18v11H3zM9 10l6 5M15 10l-6 5",
  delivered: "M4 12h14M13 6l6 6-6 6",
  failed: "M12 4l9 16H3zM12 10v4M12 17v.5",
  held: "M9 6v12M15 6v12",
  applied: "M5 13l4 4 10-11",
  waiting: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 8v4l3 2",
  skipped: "M5 6l7 6-7 6zM13 6l7 6-7 6z",
  cache: "M13 3L5 14h6l-1 7 8-11h-6z",
};

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
