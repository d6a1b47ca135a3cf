// Checks the types and builds the page: `node build.mjs [folder]`. The default folder is dist/.
import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, "dist"));
const modules = join(here, "node_modules");

execFileSync(process.execPath, [join(modules, "typescript/bin/tsc"), "--project", here], { stdio: "inherit" });

const font = (name) => readFileSync(join(modules, `@fontsource-variable/atkinson-hyperlegible-${name}`));
const files = new Map([
    ["sans.woff2", font("next/files/atkinson-hyperlegible-next-latin-wght-normal.woff2")],
    ["mono.woff2", font("mono/files/atkinson-hyperlegible-mono-latin-wght-normal.woff2")],
    ["icon.svg", readFileSync(join(here, "src/icon.svg"))],
    ["licenses.txt", Buffer.from(licenses())],
]);

const bundled = await build({
    absWorkingDir: here,
    entryPoints: { app: "src/main.tsx" },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none",
    jsx: "automatic",
    jsxImportSource: "preact",
    charset: "utf8",
    write: false,
    outdir: target,
});
const styles = await build({
    absWorkingDir: here,
    entryPoints: { app: "styles/app.css" },
    bundle: true,
    minify: true,
    target: "chrome120",
    external: ["*.woff2"],
    write: false,
    outdir: target,
});
files.set("app.js", Buffer.from(bundled.outputFiles[0].contents));
const version = (name) => createHash("sha256").update(files.get(name)).digest("hex").slice(0, 12);
const versioned = (text) => text.replace(/([\w-]+\.(?:woff2|js|css|svg))(?!\?)/g, (name) => files.has(name) ? `${name}?v=${version(name)}` : name);
files.set("app.css", Buffer.from(versioned(styles.outputFiles[0].text)));
files.set("shell.html", Buffer.from(versioned(readFileSync(join(here, "src/shell.html"), "utf8"))));

mkdirSync(target, { recursive: true });
for (const name of readdirSync(target)) {
    if (!files.has(name) && name !== ".gitignore") rmSync(join(target, name), { recursive: true });
}
for (const [name, content] of files) {
    const path = join(target, name);
    // Unchanged files keep their time, so that cargo compiles nothing again.
    if (!existsSync(path) || !readFileSync(path).equals(content)) writeFileSync(path, content);
}

function licenses() {
    const packages = ["preact", "@preact/signals", "@preact/signals-core", "@fontsource-variable/atkinson-hyperlegible-next"];
    return packages
        .map((name) => `${name}\n\n${readFileSync(join(modules, name, "LICENSE"), "utf8").trim()}\n`)
        .join("\n----\n\n");
}
