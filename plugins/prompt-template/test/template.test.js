// The template language and the configuration; `node --test` runs this.

import assert from "node:assert/strict";
import { test } from "node:test";

import { SCHEMA, apply, parseConfig } from "../template.js";

const config = (template, values) => parseConfig(JSON.stringify({ template, values }));

function completion(input, { system = "", options = [], model = "m.gguf" } = {}) {
  return { model, options, content: { tag: "completion", val: { system, input } } };
}

function chat(...messages) {
  const val = messages.map(([tag, content]) => ({ role: { tag }, content }));
  return { model: "m.gguf", options: [], content: { tag: "chat", val } };
}

test("placeholders are filled from the request and from the configuration", () => {
  const settings = config("{{greeting}}, {{ model }}: {{input}}!", { greeting: "Hi" });
  const { val } = apply(settings, completion(["a", "b"], { system: "S" }));
  assert.deepEqual(val, { system: "S", input: ["Hi, m.gguf: ab!"] });
});

test("text of the client or of a value is never a template", () => {
  const settings = config("{{x}} {{input}}", { x: "{{input}} {{model}}" });
  const { val } = apply(settings, completion(["{{x}} {{model}} $& $1"]));
  assert.deepEqual(val.input, ["{{input}} {{model}} {{x}} {{model}} $& $1"]);
});

test("the input is joined as the worker would join it", () => {
  const options = [{ name: "input_separator", json: '"\\n"' }];
  const { val } = apply(config("<{{input}}>"), completion(["a", "b"], { options }));
  assert.deepEqual(val.input, ["<a\nb>"]);
  const wrong = [{ name: "input_separator", json: "7" }];
  const outcome = apply(config("<{{input}}>"), completion(["a", "b"], { options: wrong }));
  assert.deepEqual(outcome.val.input, ["<ab>"]);
});

test("in a chat the user's last message is rendered, and nothing else", () => {
  const request = chat(["system", "s"], ["user", "one"], ["assistant", "a"], ["user", "two"], ["tool", "t"]);
  const { val } = apply(config("<{{input}}>"), request);
  assert.deepEqual(
    val.map(({ content }) => content),
    ["s", "one", "a", "<two>", "t"],
  );
  assert.equal(request.content.val[3].content, "two");
});

test("nothing to do is nothing done", () => {
  assert.equal(apply(parseConfig("{}"), completion(["a"])), undefined);
  assert.equal(apply(config("{{x}}{{input}}", { x: "" }), completion(["a"])), undefined);
  assert.equal(apply(config("<{{input}}>"), chat(["system", "s"])), undefined);
});

test("braces that are no placeholder stay", () => {
  const { val } = apply(config('{"a": {{input}}, {{}} {{ 1x }}}'), completion(["1"]));
  assert.deepEqual(val.input, ['{"a": 1, {{}} {{ 1x }}}']);
});

for (const [document, expected] of [
  ["", /not JSON/],
  ["[]", /must be an object, not array/],
  ["null", /must be an object, not null/],
  ['{"templat": "x"}', /unknown key "templat"/],
  ['{"template": 1}', /"template" must be a string, not number/],
  ['{"values": []}', /"values" must be an object of strings, not array/],
  ['{"values": {"a": 1}}', /value "a" must be a string, not number/],
  ['{"values": {"input": "x"}}', /must not define "input"/],
  ['{"template": "no placeholder"}', /\{\{input\}\} once, it has it 0 times/],
  ['{"template": "{{input}}{{input}}"}', /\{\{input\}\} once, it has it 2 times/],
  ['{"template": "{{input}} {{x}}", "values": {"y": ""}}', /unknown placeholder "\{\{x\}\}".*input, model, y/],
  ['{"template": "{{input}} {{toString}}"}', /unknown placeholder/],
]) {
  test(`configuration ${document} is refused`, () => {
    assert.throws(() => parseConfig(document), expected);
  });
}

test("the schema's defaults are the defaults", () => {
  const defaults = Object.entries(SCHEMA.properties).map(([key, value]) => [key, value.default]);
  assert.deepEqual(parseConfig(JSON.stringify(Object.fromEntries(defaults))), parseConfig("{}"));
});
