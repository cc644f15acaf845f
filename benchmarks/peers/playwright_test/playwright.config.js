// Peer 4: the stock runner, a project for each browser, as many workers as cores.
const { defineConfig } = require("@playwright/test");
const { readFileSync } = require("node:fs");

const suite = JSON.parse(readFileSync(`${process.env.PEERS_SUITE}/suite.json`, "utf8"));
const address = `http://127.0.0.1:${process.env.PEERS_PORT}`;

module.exports = defineConfig({
  testDir: ".",
  workers: 2,
  fullyParallel: true,
  timeout: 120_000,
  reporter: [["json", { outputFile: process.env.PEERS_RESULT }]],
  webServer: { command: `${process.env.PEERS_PYTHON} ${process.env.PEERS_SERVER}`, url: `${address}/page/index.html` },
  use: { baseURL: address },
  projects: Object.entries(suite.browsers).map(([name, how]) => ({
    name,
    grep: new RegExp(`-${name}( |$)`),
    use: {
      browserName: how.engine,
      channel: how.channel ?? undefined,
      headless: true,
      launchOptions: { executablePath: how.executable, args: how.args, firefoxUserPrefs: how.prefs },
    },
  })),
});
