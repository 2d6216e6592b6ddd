// Builds the component: `node build.mjs OUT.wasm`.
//
// `componentize` wants one folder that holds the world and, under `deps/`, the
// packages that it uses. Such a folder is put together in a temporary place, so
// that the repository has its WIT files once.

import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { componentize } from "@bytecodealliance/componentize-js";

const here = dirname(fileURLToPath(import.meta.url));
const output = process.argv[2];
if (output === undefined) {
  console.error("usage: node build.mjs OUT.wasm");
  process.exit(2);
}

const witPath = await mkdtemp(join(tmpdir(), "prompt-template-wit-"));
try {
  await cp(join(here, "wit"), witPath, { recursive: true });
  await mkdir(join(witPath, "deps"));
  await cp(join(here, "..", "..", "wit"), join(witPath, "deps", "hooks"), { recursive: true });
  const { component } = await componentize({
    sourcePath: join(here, "plugin.js"),
    witPath,
    worldName: "plugin",
    // Without these the component imports nothing but the worker's interfaces.
    disableFeatures: ["stdio", "random", "clocks", "http", "fetch-event"],
  });
  await mkdir(dirname(resolve(output)), { recursive: true });
  await writeFile(output, component);
} finally {
  await rm(witPath, { recursive: true, force: true });
}
