// Runs inside a page and returns what is wrong with it, a sentence a fault.
() => {
    const faults = [];
    const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: false });
    const nameOf = (element) => {
        const copy = element.cloneNode(true);
        copy.querySelectorAll("[aria-hidden=true], .material-symbols-outlined, svg").forEach((part) => part.remove());
        const images = [...copy.querySelectorAll("img, [title]")].map((part) => part.alt || part.title).join(" ");
        const labelled = (element.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean)
            .map((id) => document.getElementById(id)?.textContent || "").join(" ");
        const labels = element.labels ? [...element.labels].map((label) => label.textContent).join(" ") : "";
        const own = [element.getAttribute("aria-label"), labelled, labels, copy.textContent, images, element.title, element.placeholder];
        return own.map((text) => (text || "").trim()).find(Boolean) || "";
    };
    const sketch = (element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 140);

    // The frame of the page.
    if (!document.title.trim()) faults.push("the page has no title");
    if (!document.documentElement.lang) faults.push("the page names no language");
    if (![...document.querySelectorAll("h1")].some((heading) => shown(heading) && heading.textContent.trim())) {
        faults.push("no visible h1");
    }
    const width = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
    if (width > window.innerWidth) {
        const widest = [...document.body.querySelectorAll("*")]
            .filter((element) => shown(element) && element.getBoundingClientRect().right > window.innerWidth + 1);
        faults.push(`the body is ${width} wide, the window ${window.innerWidth}: ${widest.slice(0, 1).map(sketch)}`);
    }

    // Text that has so little room that it stands letter below letter.
    for (const element of document.querySelectorAll("main *, #content *")) {
        const says = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim().length > 5);
        const size = parseFloat(getComputedStyle(element).fontSize);
        const box = element.getBoundingClientRect();
        if (says && shown(element) && box.width > 1 && box.width < 3 * size && box.height > 4 * size) {
            faults.push(`text without room: ${element.textContent.trim().slice(0, 40)}`);
        }
    }

    // Text that runs out of its card, where nothing scrolls.
    for (const card of document.querySelectorAll(".ch-card, .ch-tile")) {
        const edge = card.getBoundingClientRect().right + 1;
        for (const element of card.querySelectorAll("*")) {
            if (!element.children.length && element.textContent.trim() && shown(element) && !element.closest(".ch-scroll, .ch-hidden, .ch-tabs")
                && element.getBoundingClientRect().right > edge) {
                faults.push(`text outside of its card: ${element.textContent.trim().slice(0, 40)}`);
            }
        }
    }

    // What a template let through.
    const text = document.body.innerText;
    for (const found of text.match(/.{0,30}(\bNone\b(?! [a-z])|\{\{|\{%|%\}|\bundefined\b|\bNaN\b|\bInvalid Date\b).{0,30}/g) || []) {
        faults.push(`odd text: ${found}`);
    }

    // Names for everything that one can use.
    for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
        if (shown(field) && !nameOf(field)) faults.push(`a field without a label: ${sketch(field)}`);
    }
    for (const button of document.querySelectorAll("button, a[href], [role=button], summary")) {
        if (shown(button) && !nameOf(button)) faults.push(`a button or link without a name: ${sketch(button)}`);
    }
    for (const image of document.querySelectorAll("img")) {
        if (!image.hasAttribute("alt")) faults.push(`an image without alt: ${sketch(image)}`);
        if (shown(image) && image.complete && !image.naturalWidth) faults.push(`a broken image: ${sketch(image)}`);
    }
    for (const table of document.querySelectorAll("table")) {
        if (shown(table) && table.tBodies.length && !table.querySelector("th")) {
            faults.push(`a table without headers: ${sketch(table)}`);
        }
    }
    const ids = [...document.querySelectorAll("main [id], dialog [id]")].map((element) => element.id);
    for (const id of new Set(ids.filter((each, index) => ids.indexOf(each) !== index))) {
        faults.push(`the id ${id} is there twice`);
    }

    // Contrast of the text, by WCAG 2.2: 4.5 to 1, and 3 to 1 for large text.
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const seen = new Map();
    const rgba = (colour) => {
        if (!seen.has(colour)) {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
            seen.set(colour, [red, green, blue, alpha / 255]);
        }
        return seen.get(colour);
    };
    const over = (front, back) => [0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3]));
    const groundOf = (element) => {
        const layers = [];
        for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
        return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255]);
    };
    const light = (colour) => {
        const [red, green, blue] = colour.map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const pale = new Set();
    for (const element of document.querySelectorAll("main *, #content *")) {
        const says = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
        const style = getComputedStyle(element);
        if (!says || !shown(element) || element.closest(":disabled, [aria-hidden=true], .material-symbols-outlined")) continue;
        const ground = groundOf(element);
        const [a, b] = [light(over(rgba(style.color), ground)), light(ground)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        if (ratio < (large ? 2.95 : 4.45)) {
            pale.add(`contrast of ${ratio.toFixed(2)} for ${style.color} on ${ground.map(Math.round)}: ${(element.className || element.tagName).replace(/\s+/g, " ").slice(0, 60)}: ${element.textContent.trim().slice(0, 40)}`);
        }
    }
    return [...faults, ...[...pale].slice(0, 5)];
}
