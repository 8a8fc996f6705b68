"use strict";
document.documentElement.classList.add("js");
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".command button");
  if (!button) return;
  const pre = button.parentElement.querySelector("pre");
  let copied = false;
  try {
    await navigator.clipboard.writeText(pre.textContent);
    copied = true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(pre);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    copied = document.execCommand("copy");
  }
  button.textContent = copied ? "Copied" : "Selected";
});
