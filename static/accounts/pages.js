// Dialogs, the drawer, charts and "select all" of the workbench pages. Everything works by data attributes, so that
// templates hold no script.

// The first is the house's own; on dark ground it takes a lighter shade of it.
const colours = ["#0f766e", "#f59e0b", "#6366f1", "#ec4899", "#22c55e", "#0ea5e9", "#a855f7", "#ef4444", "#84cc16", "#64748b"];
// Signs above bars: what came in late, and what was corrected. Shapes tell them apart as well.
const signColours = ["#d97706", "#7c3aed"];
const charts = [];

function colourOf(index) {
    const own = index % colours.length;
    return own === 0 && document.documentElement.classList.contains("dark") ? "#2dd4bf" : colours[own];
}

// Each in a row of its own at the top, so that neither hides the other.
function signsOf(markers) {
    return markers.map((marker, index) => ({
        type: "line",
        label: marker.label,
        data: marker.texts.map((text) => (text === null ? null : 0.97 - index * 0.07)),
        texts: marker.texts,
        isSign: true,
        yAxisID: "signs",
        showLine: false,
        pointStyle: marker.shape,
        pointRadius: 6,
        pointHoverRadius: 7,
        backgroundColor: signColours[index % signColours.length],
        borderColor: signColours[index % signColours.length],
    }));
}

// On a narrow screen many long names would leave no room for the bars: their first words do, the table has the rest.
function legendLabels(chart) {
    const isTight = chart.width < 500 && chart.data.datasets.length > 4;
    return Chart.defaults.plugins.legend.labels.generateLabels(chart).map((label) => {
        const dataset = chart.data.datasets[label.datasetIndex];
        const text = isTight && !dataset.isSign ? label.text.split(" ")[0] : label.text;
        return { ...label, text, pointStyle: dataset.isSign ? dataset.pointStyle : "rectRounded" };
    });
}

function tooltipText(item, unit, number) {
    const { dataset } = item;
    const text = dataset.isSign ? dataset.texts[item.dataIndex] : `${number.format(item.parsed.y)}${unit ? ` ${unit}` : ""}`;
    return `${dataset.label}: ${text}`;
}

function chartOptions({ kind, stacked, unit, small, links, hasSigns }) {
    const style = getComputedStyle(document.documentElement);
    const dark = document.documentElement.classList.contains("dark");
    const line = style.getPropertyValue(dark ? "--color-base-800" : "--color-base-200").trim();
    const text = style.getPropertyValue(dark ? "--color-base-400" : "--color-base-500").trim();
    const number = new Intl.NumberFormat("en-US", { maximumFractionDigits: 6 });
    const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
    return {
        responsive: true,
        maintainAspectRatio: false,
        animation: false,
        interaction: { mode: "index", intersect: false },
        onClick: (_event, bars) => {
            if (bars.length > 0 && links[bars[0].index]) {
                window.location.assign(links[bars[0].index]);
            }
        },
        onHover: (event, bars) => {
            event.native.target.style.cursor = bars.length > 0 && links[bars[0].index] ? "pointer" : "default";
        },
        scales: {
            x: { stacked, grid: { display: false }, border: { color: line }, ticks: { color: text, maxRotation: 0, autoSkip: true, autoSkipPadding: 12 }, display: !small },
            y: { stacked, beginAtZero: true, grace: hasSigns ? "22%" : 0, grid: { color: line }, border: { display: false }, ticks: { color: text, maxTicksLimit: 6, precision: unit === "events" ? 0 : undefined, callback: (value) => short.format(value) }, display: !small, title: { display: Boolean(unit) && !small, text: unit, color: text } },
            ...(hasSigns ? { signs: { display: false, min: 0, max: 1 } } : {}),
        },
        plugins: {
            legend: { display: !small, position: "bottom", labels: { color: text, boxWidth: 10, boxHeight: 10, usePointStyle: true, padding: 14, generateLabels: legendLabels } },
            tooltip: { filter: (item) => item.parsed.y !== 0, callbacks: { label: (item) => tooltipText(item, unit, number) } },
        },
    };
}

function drawCharts(root) {
    Chart.defaults.font.family = "Inter, sans-serif";
    for (const canvas of root.querySelectorAll("canvas[data-chart]")) {
        // A part that HTMX brought before the page had loaded has its chart already.
        if (Chart.getChart(canvas)) {
            continue;
        }
        const data = JSON.parse(document.getElementById(canvas.dataset.chart).textContent);
        const kind = canvas.dataset.kind || "bar";
        const stacked = canvas.dataset.stacked === "1";
        const small = canvas.dataset.small === "1";
        const datasets = data.series.map((series, index) => ({
            label: series.label,
            data: series.values.map(Number),
            backgroundColor: colourOf(index),
            borderColor: colourOf(index),
            borderWidth: kind === "line" ? 2 : 0,
            pointRadius: 0,
            tension: 0.25,
            maxBarThickness: 44,
            categoryPercentage: 0.9,
            barPercentage: 0.9,
            borderRadius: stacked ? 0 : 3,
        }));
        const links = data.links || [];
        const signs = signsOf(data.markers || []);
        const look = { kind, stacked, unit: data.unit || "", small, links, hasSigns: signs.length > 0 };
        const chart = new Chart(canvas, { type: kind, data: { labels: data.labels, datasets: [...datasets, ...signs] }, options: chartOptions(look) });
        charts.push({ chart, look });
    }
}

function recolour() {
    for (const { chart, look } of charts) {
        chart.options = chartOptions(look);
        chart.data.datasets.filter((dataset) => !dataset.isSign).forEach((dataset, index) => Object.assign(dataset, { backgroundColor: colourOf(index), borderColor: colourOf(index) }));
        chart.update("none");
    }
}

function openDialog(id) {
    const dialog = document.getElementById(id);
    if (dialog && !dialog.open) {
        dialog.showModal();
    }
}

function countSelected(form) {
    const boxes = form.querySelectorAll("[data-select]");
    const chosen = [...boxes].filter((box) => box.checked);
    const events = chosen.reduce((sum, box) => sum + Number(box.dataset.count || 1), 0);
    for (const place of document.querySelectorAll(`[data-selected-of="${form.id}"]`)) {
        place.textContent = events.toLocaleString("en-US");
    }
    for (const button of document.querySelectorAll(`[data-needs-selection="${form.id}"]`)) {
        button.disabled = chosen.length === 0;
    }
    for (const box of boxes) {
        box.closest("tr")?.toggleAttribute("data-on", box.checked);
    }
}

document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) {
        openDialog(opener.dataset.opens);
    }
    const closer = event.target.closest("[data-closes]");
    if (closer) {
        closer.closest("dialog").close();
    }
    // A click on the backdrop has the dialog itself as its target.
    if (event.target instanceof HTMLDialogElement && event.target.matches(".ch-dialog, .ch-drawer")) {
        event.target.close();
    }
    const adder = event.target.closest("[data-adds-row]");
    if (adder) {
        const body = document.getElementById(adder.dataset.addsRow);
        const copy = body.lastElementChild.cloneNode(true);
        for (const input of copy.querySelectorAll("input")) {
            input.value = "";
        }
        body.append(copy);
        copy.querySelector("input").focus();
    }
    const remover = event.target.closest("[data-removes-row]");
    if (remover && remover.closest("tbody").children.length > 1) {
        remover.closest("tr").remove();
    }
});

document.addEventListener("change", (event) => {
    const all = event.target.closest("[data-select-all]");
    if (all) {
        for (const box of all.form.querySelectorAll("[data-select]")) {
            box.checked = all.checked;
        }
    }
    if (event.target.form && event.target.matches("[data-select], [data-select-all]")) {
        countSelected(event.target.form);
    }
    if (event.target.matches("[data-submits]")) {
        event.target.form.requestSubmit();
    }
    if (event.target.matches("[data-shows]")) {
        for (const part of document.querySelectorAll("[data-for]")) {
            part.hidden = !part.dataset.for.split(" ").includes(event.target.value);
            // What is not shown is not asked for, and must not hold the form up.
            for (const input of part.querySelectorAll("input")) {
                input.disabled = part.hidden;
            }
        }
    }
});

// A form that was sent is not sent twice by an impatient second click.
document.addEventListener("submit", (event) => {
    if (event.target.method === "post" && !event.defaultPrevented) {
        for (const button of event.target.querySelectorAll("button[type=submit], button:not([type])")) {
            setTimeout(() => { button.disabled = true; });
        }
    }
});
window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
        window.location.reload();
    }
});

document.addEventListener("htmx:afterSwap", (event) => {
    drawCharts(event.detail.target);
    const drawer = event.detail.target.closest(".ch-drawer");
    if (drawer) {
        openDialog(drawer.id);
    }
});
document.addEventListener("htmx:responseError", () => {
    const place = document.getElementById("ch-problem");
    if (place) {
        place.hidden = false;
    }
});

// Unfold writes the name of a chosen file into a text field of its own markup, and stumbles where there is none. It
// leaves alone what is marked like this; the browser's own field shows the name.
document.addEventListener("DOMContentLoaded", () => {
    for (const input of document.querySelectorAll(".ch-field input[type=file], [data-upload] input[type=file]")) {
        input.hasChangeListener = true;
    }
});

window.addEventListener("load", () => {
    drawCharts(document);
    for (const form of document.querySelectorAll("form[data-selection]")) {
        countSelected(form);
    }
    new MutationObserver(recolour).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
});
