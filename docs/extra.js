// The theme puts a navigation with a copy button beside each block of code: each gets a name of its own.
const names = new MutationObserver(() => {
  document.querySelectorAll("nav.md-code__nav:not([aria-label])").forEach((nav) => {
    const place = [...document.querySelectorAll("nav.md-code__nav")].indexOf(nav) + 1;
    nav.setAttribute("aria-label", `Code block ${place}`);
  });
});
names.observe(document.body, { childList: true, subtree: true });
