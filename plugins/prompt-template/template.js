// The template language and the configuration: pure functions without any
// import, so that `node --test` can run them. `plugin.js` joins them to the
// worker's interfaces.
//
// A template is text with placeholders, `{{name}}`. `{{input}}` is what the
// client wrote, `{{model}}` the model's name, every other name a key of `values`
// in the configuration. There are no loops and no conditions: a prompt that needs
// them is a program, and belongs into a plugin of its own.

/** Names that the request gives; `values` must not define them. */
const REQUEST_NAMES = ["input", "model"];

/** `{{name}}`, spaces allowed inside the braces. */
const PLACEHOLDER = /\{\{\s*([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}/g;

/** JSON Schema of the configuration document; `parseConfig` enforces the same. */
export const SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "prompt-template",
  type: "object",
  additionalProperties: false,
  properties: {
    template: {
      description:
        "Text with placeholders: {{input}} (once) is the client's text, {{model}} the model's name, others are keys of `values`.",
      type: "string",
      default: "{{input}}",
    },
    values: {
      description: "The texts of the other placeholders.",
      type: "object",
      propertyNames: { pattern: "^[A-Za-z_][A-Za-z0-9_-]*$" },
      additionalProperties: { type: "string" },
      default: {},
    },
  },
};

/**
 * Reads the configuration document.
 *
 * @param {string} document JSON, `{}` when the operator gave nothing
 * @returns {{ pieces: ({text: string} | {name: string})[] }} the template, its
 *   configured values already put in
 * @throws {Error} whose message names what is wrong and what would be right
 */
export function parseConfig(document) {
  const config = parseJson(document);
  for (const key of Object.keys(config)) {
    if (!(key in SCHEMA.properties)) {
      throw new Error(`unknown key "${key}": the keys are template and values`);
    }
  }
  const { template = SCHEMA.properties.template.default, values = {} } = config;
  if (typeof template !== "string") {
    throw new Error(`"template" must be a string, not ${typeName(template)}`);
  }
  if (typeName(values) !== "object") {
    throw new Error(`"values" must be an object of strings, not ${typeName(values)}`);
  }
  for (const [name, value] of Object.entries(values)) {
    if (REQUEST_NAMES.includes(name)) {
      throw new Error(`"values" must not define "${name}": the request gives it`);
    }
    if (typeof value !== "string") {
      throw new Error(`value "${name}" must be a string, not ${typeName(value)}`);
    }
  }
  return { pieces: compile(template, values) };
}

/**
 * Cuts the template at its placeholders and puts the configured values in. Done
 * once, so that a request's text is never searched for placeholders: a client
 * that writes `{{model}}` gets just that.
 */
function compile(template, values) {
  const pieces = [];
  let end = 0;
  let inputs = 0;
  for (const match of template.matchAll(PLACEHOLDER)) {
    const [whole, name] = match;
    pieces.push({ text: template.slice(end, match.index) });
    end = match.index + whole.length;
    if (REQUEST_NAMES.includes(name)) {
      pieces.push({ name });
      inputs += name === "input" ? 1 : 0;
    } else if (Object.hasOwn(values, name)) {
      pieces.push({ text: values[name] });
    } else {
      const known = [...REQUEST_NAMES, ...Object.keys(values)].join(", ");
      throw new Error(`unknown placeholder "{{${name}}}" in the template: there are ${known}`);
    }
  }
  pieces.push({ text: template.slice(end) });
  if (inputs !== 1) {
    throw new Error(`the template must have {{input}} once, it has it ${inputs} times`);
  }
  return pieces;
}

/** The template with the request's texts put in. */
export function render(config, { input, model }) {
  const given = { input, model };
  return config.pieces.map((piece) => piece.text ?? given[piece.name]).join("");
}

/** Whether the template is `{{input}}` alone, so that nothing would change. */
export function isIdentity(config) {
  return config.pieces.every((piece) => piece.name === "input" || piece.text === "");
}

/**
 * The request's content with its text rendered: all of the input of a
 * completion, the last message of the user in a chat.
 *
 * @param {object} config as `parseConfig` returns it
 * @param {object} request the WIT record `request`
 * @returns {object | undefined} the new `content`; undefined when nothing changes
 */
export function apply(config, request) {
  const { content, model, options } = request;
  if (isIdentity(config)) {
    return undefined;
  }
  if (content.tag === "completion") {
    const { system, input } = content.val;
    const text = input.join(inputSeparator(options));
    return { tag: "completion", val: { system, input: [render(config, { input: text, model })] } };
  }
  const messages = [...content.val];
  const last = messages.findLastIndex((message) => message.role.tag === "user");
  if (last < 0) {
    return undefined;
  }
  const rendered = render(config, { input: messages[last].content, model });
  messages[last] = { ...messages[last], content: rendered };
  return { tag: "chat", val: messages };
}

/**
 * What the worker would have put between the elements of the input. A value that
 * is no string is left to the worker, which tells the client.
 */
function inputSeparator(options) {
  const option = options.find(({ name }) => name === "input_separator");
  const value = option === undefined ? "" : JSON.parse(option.json);
  return typeof value === "string" ? value : "";
}

function parseJson(document) {
  let config;
  try {
    config = JSON.parse(document);
  } catch (error) {
    throw new Error(`the configuration is not JSON: ${error.message}`);
  }
  if (typeName(config) !== "object") {
    throw new Error(`the configuration must be an object, not ${typeName(config)}`);
  }
  return config;
}

function typeName(value) {
  if (value === null) {
    return "null";
  }
  return Array.isArray(value) ? "array" : typeof value;
}
