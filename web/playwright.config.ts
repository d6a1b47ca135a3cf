import { defineConfig } from "@playwright/test";

export default defineConfig({
    testDir: "tests",
    outputDir: "test-results",
    globalSetup: "./tests/setup.ts",
    timeout: 60_000,
    expect: { timeout: 20_000 },
    fullyParallel: true,
    retries: 0,
    reporter: [["list"]],
    use: {
        viewport: { width: 1440, height: 900 },
        launchOptions: {
            executablePath: process.env["HOLDFAST_TEST_CHROMIUM"] ?? "/usr/bin/chromium",
            args: [
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        },
        trace: "off",
    },
});
