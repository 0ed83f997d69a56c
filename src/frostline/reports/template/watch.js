// While a study is watched: poll this machine's own server for changes.
let state = null;
async function poll() {
  try {
    const current = await (await fetch("state", { cache: "no-store" })).text();
    if (state !== null && current !== state) location.reload();
    state = current;
  } catch { document.getElementById("live").textContent = "The watching command has ended; this is the last state of the study."; return; }
  setTimeout(poll, 2000);
}
poll();
