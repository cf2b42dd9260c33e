// Sends a file of usage in parts, so that none is too large for a server on the way and a part that gets lost is sent
// again. The page says in data attributes where to.

const tries = 5;
const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

async function post(url, token, body, signal) {
    const answer = await fetch(url, { method: "POST", headers: { "X-CSRFToken": token }, body, signal });
    const type = answer.headers.get("Content-Type") || "";
    const said = type.includes("json") ? await answer.json() : {};
    if (!answer.ok) {
        const error = new Error(said.error || "The server did not take it. Reload the page and try again.");
        // What was refused is refused again; only what went wrong on the way is worth another try.
        error.isFinal = answer.status < 500;
        throw error;
    }
    return said;
}

async function postAgain(url, token, body, signal) {
    for (let attempt = 1; ; attempt += 1) {
        try {
            return await post(url, token, body, signal);
        } catch (error) {
            if (error.isFinal || error.name === "AbortError" || attempt === tries) {
                throw error;
            }
            await pause(500 * 2 ** attempt);
        }
    }
}

async function send(place, file, signal) {
    const { receive, partBytes, limitBytes, token } = place.dataset;
    const megabytes = (bytes) => `${(bytes / 1048576).toLocaleString("en-US", { maximumFractionDigits: 1 })} MB`;
    if (file.size > Number(limitBytes)) {
        throw new Error(`${file.name} has ${megabytes(file.size)}; at most ${megabytes(Number(limitBytes))} are taken here. Pack it with gzip, or load it with manage.py load_usage.`);
    }
    const bar = place.querySelector("[data-bar]");
    const words = place.querySelector("[data-sent]");
    const form = new FormData();
    form.append("name", file.name);
    form.append("size", String(file.size));
    const { parts, arrived } = await postAgain(receive, token, form, signal);
    const size = Number(partBytes);
    for (let number = 0; number * size < file.size; number += 1) {
        const part = file.slice(number * size, (number + 1) * size);
        await postAgain(parts.replace(/0\/$/, `${number}/`), token, part, signal);
        const sent = Math.min((number + 1) * size, file.size);
        const percent = Math.floor((sent / file.size) * 100);
        bar.style.width = `${percent}%`;
        bar.parentElement.setAttribute("aria-valuenow", String(percent));
        words.textContent = `${megabytes(sent)} of ${megabytes(file.size)}`;
    }
    words.textContent = "Looking at it …";
    const said = await postAgain(arrived, token, new FormData(), signal);
    window.location.assign(said.page);
}

for (const place of document.querySelectorAll("[data-upload]")) {
    const input = place.querySelector("input[type=file]");
    const problem = place.querySelector("[data-problem]");
    const sending = place.querySelector("[data-sending]");
    const asking = place.querySelector("[data-asking]");
    let stopper = null;

    const take = async (file) => {
        problem.hidden = true;
        asking.hidden = true;
        sending.hidden = false;
        place.querySelector("[data-name]").textContent = file.name;
        stopper = new AbortController();
        try {
            await send(place, file, stopper.signal);
        } catch (error) {
            sending.hidden = true;
            asking.hidden = false;
            input.value = "";
            if (error.name !== "AbortError") {
                problem.textContent = error.message;
                problem.hidden = false;
            }
        }
    };
    input.addEventListener("change", () => {
        if (input.files.length) {
            take(input.files[0]);
        }
    });
    place.querySelector("[data-cancels]").addEventListener("click", () => stopper?.abort());
    for (const kind of ["dragover", "dragleave", "drop"]) {
        place.addEventListener(kind, (event) => {
            event.preventDefault();
            place.toggleAttribute("data-over", kind === "dragover");
            if (kind === "drop" && event.dataTransfer.files.length && sending.hidden) {
                take(event.dataTransfer.files[0]);
            }
        });
    }
}
