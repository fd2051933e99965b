
/** Show only the cards that have all words of the filter; the words are kept behind # in the address. */
const words = document.getElementById("words");
const cards = [...document.querySelectorAll("[data-words]")];
const count = document.getElementById("count"), total = count.textContent;

/** Whether a word begins with the one that is wanted; scripts without spaces are searched for it. */
function has(text, wanted) {
  const begins = (word) => word.startsWith(wanted);
  return text.split(/\s+/).some(begins) || text.split(/[\s,.=_/()"'-]+/).some(begins) || (/[^\x00-\x7f]/.test(wanted) && text.includes(wanted));
}

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const found = wanted.every((word) => has(card.dataset.words, word));
    card.classList.toggle("left-out", !found);
    if (found) shown += 1;
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = wanted.length > 0 && !section.querySelector("[data-words]:not(.left-out)");
  }
  document.getElementById("nothing").hidden = shown > 0 || cards.length === 0;
  count.textContent = wanted.length ? `${shown} of ${total}` : total;
}

words.oninput = () => {
  filter();
  try {
    history.replaceState(null, "", words.value ? `#${encodeURIComponent(words.value)}` : "#");
  } catch { /* too often for the browser */ }
};
try {
  words.value = decodeURIComponent(location.hash.slice(1));
} catch { /* no text */ }
filter();
