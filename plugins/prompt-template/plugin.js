// `prompt-template`: a request hook that renders a prompt template around what
// the client wrote. This file joins `template.js` to the worker's interfaces: it
// reads the configuration and turns every exception into an error that the worker
// can report. An exception that leaves a hook is a trap without a word.

import { document } from "llamero:hooks/config@0.1.0";
import { SCHEMA, apply, parseConfig, render } from "./template.js";

let config;

/** The configuration, parsed once per instance. */
function configuration() {
  config ??= parseConfig(document());
  return config;
}

/** @returns {string} an exception as text for the operator's log */
function describeError(error) {
  return `prompt-template: ${error instanceof Error ? error.message : String(error)}`;
}

/** Runs `body`; what it throws is thrown again as the error of the interface. */
function guarded(body, toError) {
  try {
    return body();
  } catch (error) {
    throw toError(describeError(error));
  }
}

/**
 * What stands here runs when the component is built, and its memory becomes the
 * snapshot that every instance starts from. A function that has run is compiled in
 * it, and need not be compiled again by every job.
 */
function warmUp() {
  const settings = parseConfig('{"template": "{{a}} {{input}} {{model}}", "values": {"a": "b"}}');
  const completion = { tag: "completion", val: { system: "", input: ["text"] } };
  const chat = { tag: "chat", val: [{ role: { tag: "user" }, content: "text" }] };
  const options = [{ name: "temperature", json: "0.5" }];
  for (const content of [completion, chat]) {
    apply(settings, { content, model: "m", options });
  }
}

warmUp();

export const lifecycle = {
  describe() {
    return {
      name: "prompt-template",
      version: "0.1.0",
      description: "Llamero request hook that renders a prompt template around the client's text.",
      configSchema: JSON.stringify(SCHEMA),
    };
  },

  configure() {
    guarded(configuration, (text) => text);
  },

  selfTest() {
    guarded(
      () => {
        const probe = "llamero self-test {{input}}";
        if (!render(configuration(), { input: probe, model: "m" }).includes(probe)) {
          throw new Error("self-test failed: the rendered prompt lacks the input");
        }
      },
      (text) => text,
    );
  },
};

export const requestHook = {
  onRequest(_context, request) {
    const settings = guarded(configuration, (text) => ({ tag: "config", val: text }));
    return guarded(
      () => {
        const content = apply(settings, request);
        if (content === undefined) {
          return { tag: "pass" };
        }
        return { tag: "patch", val: { content, options: [] } };
      },
      (text) => ({ tag: "internal", val: text }),
    );
  },
};
