// The colors of the states, computed: no browser is needed.
import { readFileSync } from "node:fs";
import { expect, test } from "@playwright/test";

const STATES = ["ok", "running", "waiting", "user", "platform", "cancelled", "off"];

/** The smallest difference of two states, in CIEDE2000: well above the difference that is just noticed. */
const DIFFERENCE_MIN = 15;
/** The contrast that WCAG 2.2 asks of graphics (1.4.11). */
const CONTRAST_MIN = 3;

type Triple = [number, number, number];

/** Machado, Oliveira and Fernandes (2009), severity 1. */
const VISIONS: Record<string, [Triple, Triple, Triple]> = {
    normal: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    protanopia: [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    deuteranopia: [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    tritanopia: [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
};

function token(name: string, theme: 0 | 1): Triple {
    const css = readFileSync("styles/tokens.css", "utf8");
    const found = new RegExp(`--${name}: light-dark\\((#[0-9a-f]{6}), (#[0-9a-f]{6})\\)`).exec(css);
    if (!found) throw new Error(`no color --${name}`);
    const hex = found[1 + theme]!;
    return [1, 3, 5].map((at) => {
        const value = parseInt(hex.slice(at, at + 2), 16) / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    }) as Triple;
}

const seen = (color: Triple, vision: string) => VISIONS[vision]!.map((row) => Math.min(1, Math.max(0, row[0] * color[0] + row[1] * color[1] + row[2] * color[2]))) as Triple;

const luminance = ([r, g, b]: Triple) => 0.2126 * r + 0.7152 * g + 0.0722 * b;

function lab([r, g, b]: Triple): Triple {
    const f = (t: number) => (t > 216 / 24389 ? Math.cbrt(t) : (t * 24389) / 27 / 116 + 16 / 116);
    const x = f((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047);
    const y = f(0.2126729 * r + 0.7151522 * g + 0.072175 * b);
    const z = f((0.0193339 * r + 0.119192 * g + 0.9503041 * b) / 1.08883);
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

function difference(one: Triple, two: Triple): number {
    const [[l1, a1, b1], [l2, a2, b2]] = [lab(one), lab(two)];
    const rad = Math.PI / 180;
    const mean = (Math.hypot(a1, b1) + Math.hypot(a2, b2)) / 2;
    const g = 0.5 * (1 - Math.sqrt(mean ** 7 / (mean ** 7 + 25 ** 7)));
    const [x1, x2] = [a1 * (1 + g), a2 * (1 + g)];
    const [c1, c2] = [Math.hypot(x1, b1), Math.hypot(x2, b2)];
    const angle = (b: number, a: number) => (a === 0 && b === 0 ? 0 : (Math.atan2(b, a) / rad + 360) % 360);
    const [h1, h2] = [angle(b1, x1), angle(b2, x2)];
    let dh = c1 * c2 === 0 ? 0 : h2 - h1;
    if (dh > 180) dh -= 360;
    if (dh < -180) dh += 360;
    const [dl, dc, dH] = [l2 - l1, c2 - c1, 2 * Math.sqrt(c1 * c2) * Math.sin((dh / 2) * rad)];
    const [l, c] = [(l1 + l2) / 2, (c1 + c2) / 2];
    const h = c1 * c2 === 0 ? h1 + h2 : Math.abs(h1 - h2) <= 180 ? (h1 + h2) / 2 : (h1 + h2 + (h1 + h2 < 360 ? 360 : -360)) / 2;
    const t = 1 - 0.17 * Math.cos((h - 30) * rad) + 0.24 * Math.cos(2 * h * rad) + 0.32 * Math.cos((3 * h + 6) * rad) - 0.2 * Math.cos((4 * h - 63) * rad);
    const sl = 1 + (0.015 * (l - 50) ** 2) / Math.sqrt(20 + (l - 50) ** 2);
    const [sc, sh] = [1 + 0.045 * c, 1 + 0.015 * c * t];
    const turn = -Math.sin(60 * Math.exp(-(((h - 275) / 25) ** 2)) * rad) * 2 * Math.sqrt(c ** 7 / (c ** 7 + 25 ** 7));
    return Math.sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dH / sh) ** 2 + turn * (dc / sc) * (dH / sh));
}

for (const [theme, name] of [[0, "light"], [1, "dark"]] as const) {
    test(`every two states differ for every eye in the ${name} theme, and every state from the paper`, () => {
        const paper = luminance(token("paper", theme));
        for (const state of STATES) {
            const own = luminance(token(state, theme));
            expect((Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05), state).toBeGreaterThanOrEqual(CONTRAST_MIN);
        }
        for (const vision of Object.keys(VISIONS)) {
            for (const [index, one] of STATES.entries()) {
                for (const two of STATES.slice(index + 1)) {
                    const found = difference(seen(token(one, theme), vision), seen(token(two, theme), vision));
                    expect(found, `${one} and ${two}, ${vision}`).toBeGreaterThanOrEqual(DIFFERENCE_MIN);
                }
            }
        }
    });
}

test("the difference is computed as CIEDE2000 defines it", () => {
    // White and black are 100 apart, and a color is equal to itself.
    expect(difference([1, 1, 1], [0, 0, 0])).toBeCloseTo(100, 1);
    expect(difference([0.2, 0.4, 0.6], [0.2, 0.4, 0.6])).toBe(0);
});
