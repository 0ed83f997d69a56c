// While a study is watched: ask this machine's own server whether something new has landed.
let state = null;
async function ask() {
  try {
    const found = await (await fetch("state", { cache: "no-store" })).text();
    if (state !== null && found !== state) location.reload();
    state = found;
  } catch { document.getElementById("live").textContent = "The watching command has ended; this is how the study stood."; return; }
  setTimeout(ask, 2000);
}
ask();
