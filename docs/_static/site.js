document.addEventListener("DOMContentLoaded", () => {
  // Its keys are shown inside it, and would not be part of the name that it is given.
  document.querySelector(".search-button-field")?.removeAttribute("aria-label");
  // The arrows that unfold the sidebar are bare signs: say what they do.
  for (const arrow of document.querySelectorAll(".bd-sidenav summary")) {
    const page = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages below ${page}`);
  }
  // What is moved sideways is moved by the arrow keys too, once it has the focus.
  for (const picture of document.querySelectorAll(".bd-article :is(.cell_output, p) > img")) {
    const frame = picture.parentElement;
    if (frame.scrollWidth > frame.clientWidth) frame.tabIndex = 0;
  }
});
