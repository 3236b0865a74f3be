const live = document.getElementById("live");
const again = async () => {
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(next.querySelector("main"));
    live.textContent = "live";
    live.className = "";
  } catch {
    live.textContent = "no answer, these are the last numbers";
    live.className = "bad";
  }
  setTimeout(again, 2000);
};
setTimeout(again, 2000);
