// SPDX-License-Identifier: MIT
// What the theme leaves out for those who use the keyboard or a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
  for (const box of document.querySelectorAll("pre, .table-wrapper, table.docutils, section > p:has(> img:only-child)")) box.tabIndex = 0;
});
