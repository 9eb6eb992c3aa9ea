// Live curves: ask this machine's own server every few seconds, as long as the run goes on.
"use strict";
(() => {
  const place = document.getElementById("live");
  const again = async () => {
    try {
      const answer = await fetch(place.dataset.source);
      if (answer.ok) place.innerHTML = await answer.text(); // made and escaped by situs itself
    } catch { /* the server was stopped; keep what is shown */ }
    const status = place.querySelector("[data-status]")?.dataset.status;
    if (status === "running") setTimeout(again, 4000);
  };
  setTimeout(again, 4000);
})();
