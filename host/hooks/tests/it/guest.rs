//! Test plugins, written as core modules that implement the canonical ABI by hand.
//!
//! A guest says what its functions do in WebAssembly text, and what they return as
//! an image of memory. The offsets follow from the WIT package: every field is
//! four-byte aligned, strings and lists are a pointer and a length, and a variant
//! is its case in the first word and the payload after it.
//!
//! What the outgoing phases need beside this is in `outgoing_guest`.

use std::fmt::Write;
use std::path::Path;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where the image of constants begins. The heap begins after it.
const IMAGE: u32 = 4096;
const HEAP: u32 = 65536;

/// Offset of the model's name in the arguments of `on-request`; its content, its
/// options and `wants-stream` follow.
pub const MODEL: u32 = 60;
/// Offset of the case of the content, of the system text of a completion.
pub const CONTENT: u32 = 68;
/// Offset of the prompt's text in the arguments of `on-prompt`.
pub const TEXT: u32 = 60;
/// Offset of the prompt's markup.
pub const MARKUP: u32 = 68;
/// Offset of the prompt's token count.
pub const TOKENS: u32 = 76;

/// Signature of a function whose arguments are too many to be passed one by one.
pub const ARGS: &str = "(param $args i32) (result i32)";

/// Constants in the memory of a guest.
#[derive(Default)]
pub struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Places `bytes` and returns their address.
    pub fn place(&mut self, bytes: &[u8]) -> u32 {
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        let address = IMAGE + u32::try_from(self.bytes.len()).unwrap();
        self.bytes.extend(bytes);
        assert!(address + u32::try_from(bytes.len()).unwrap() < HEAP);
        address
    }

    pub fn words(&mut self, words: &[u32]) -> u32 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.place(&bytes)
    }

    /// Pointer and length of a string.
    pub fn text(&mut self, text: &str) -> [u32; 2] {
        [self.place(text.as_bytes()), u32::try_from(text.len()).unwrap()]
    }

    fn optional(&mut self, text: Option<&str>) -> [u32; 3] {
        match text {
            None => [0; 3],
            Some(text) => {
                let [pointer, length] = self.text(text);
                [1, pointer, length]
            }
        }
    }

    pub fn pass(&mut self) -> u32 {
        self.words(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// A patch that sets what is given: model, a completion's system text and one
    /// input, options as name and JSON.
    pub fn patch(
        &mut self,
        model: Option<&str>,
        completion: Option<(&str, &str)>,
        options: &[(&str, &str)],
    ) -> u32 {
        let mut words = vec![0, 1];
        words.extend(self.optional(model));
        match completion {
            None => words.extend([0; 6]),
            Some((system, input)) => {
                let system = self.text(system);
                let input = self.text(input);
                let list = self.words(&input);
                words.extend([1, 0]);
                words.extend(system);
                words.extend([list, 1]);
            }
        }
        let mut list = Vec::new();
        for (name, json) in options {
            list.extend(self.text(name));
            list.extend(self.text(json));
        }
        let list = self.words(&list);
        words.extend([list, u32::try_from(options.len()).unwrap()]);
        self.words(&words)
    }

    /// `respond` of a request hook; `replace` of a prompt hook, without markup.
    fn with_text(&mut self, case: u32, [pointer, length]: [u32; 2]) -> u32 {
        self.words(&[0, case, pointer, length, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    pub fn respond(&mut self, text: &str) -> u32 {
        let text = self.text(text);
        self.with_text(2, text)
    }

    /// An answer that is `length` bytes of whatever the memory holds.
    pub fn respond_raw(&mut self, pointer: u32, length: u32) -> u32 {
        self.with_text(2, [pointer, length])
    }

    pub fn replace(&mut self, text: &str) -> u32 {
        let text = self.text(text);
        self.with_text(1, text)
    }

    /// `replace`, with the spans of the new prompt's markup.
    pub fn replace_marked(&mut self, text: &str, markup: &[[u32; 2]]) -> u32 {
        let [pointer, length] = self.text(text);
        let spans = self.words(markup.as_flattened());
        let n_spans = u32::try_from(markup.len()).unwrap();
        self.words(&[0, 1, pointer, length, spans, n_spans, 0, 0, 0, 0, 0, 0, 0])
    }

    /// `reject`, which is case 3 of a request verdict and case 2 of a prompt one.
    pub fn reject(&mut self, case: u32, code: Option<u32>, reason: &str) -> u32 {
        let [pointer, length] = self.text(reason);
        let some = u32::from(code.is_some());
        self.words(&[0, case, some, code.unwrap_or(0), pointer, length, 0, 0, 0, 0, 0, 0, 0])
    }

    /// A returned hook error: 0 config, 1 unavailable, 2 internal.
    pub fn error(&mut self, case: u32, text: &str) -> u32 {
        let [pointer, length] = self.text(text);
        self.words(&[1, case, pointer, length, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// What `describe` returns.
    pub fn description(&mut self, name: &str, version: &str, schema: Option<&str>) -> u32 {
        let mut words = Vec::new();
        words.extend(self.text(name));
        words.extend(self.text(version));
        words.extend(self.text("a test plugin"));
        words.extend(self.optional(schema));
        self.words(&words)
    }

    /// What `configure` and `self-test` return.
    pub fn result(&mut self, error: Option<&str>) -> u32 {
        let words = self.optional(error);
        self.words(&words)
    }
}

/// A plugin in the making.
#[derive(Default)]
pub struct Guest {
    pub image: Image,
    imports: String,
    functions: String,
    exports: Vec<&'static str>,
    imported: Vec<&'static str>,
    memory: Option<String>,
}

impl Guest {
    pub fn new() -> Self {
        Self::default()
    }

    /// A plugin whose request hook returns what `verdict` places.
    pub fn returning(verdict: impl FnOnce(&mut Image) -> u32) -> Self {
        let mut guest = Self::new();
        let area = verdict(&mut guest.image);
        guest.on_request(&format!("(i32.const {area})"))
    }

    /// A plugin whose prompt hook returns what `verdict` places.
    pub fn prompting(verdict: impl FnOnce(&mut Image) -> u32) -> Self {
        let mut guest = Self::new();
        let area = verdict(&mut guest.image);
        guest.on_prompt(&format!("(i32.const {area})"))
    }

    /// A plugin whose request hook runs `body`, with `$args` at hand, and passes.
    pub fn doing(body: &str) -> Self {
        let mut guest = Self::new();
        let area = guest.image.pass();
        guest.on_request(&format!("{body} (i32.const {area})"))
    }

    pub fn on_request(mut self, body: &str) -> Self {
        self.add("request-hook", "on-request", ARGS, body);
        self
    }

    pub fn on_prompt(mut self, body: &str) -> Self {
        self.add("prompt-hook", "on-prompt", ARGS, body);
        self
    }

    /// Adds `lifecycle`: bodies of describe, configure and self-test.
    pub fn lifecycle(mut self, describe: &str, configure: &str, self_test: &str) -> Self {
        for (function, body) in
            [("describe", describe), ("configure", configure), ("self-test", self_test)]
        {
            self.add("lifecycle", function, "(result i32)", body);
        }
        self
    }

    /// Adds an exported function of this lowered signature.
    pub fn add(&mut self, interface: &'static str, function: &str, signature: &str, body: &str) {
        if !self.exports.contains(&interface) {
            self.exports.push(interface);
        }
        let _ = writeln!(
            self.functions,
            r#"(func (export "llamero:hooks/{interface}@0.1.0#{function}") {signature}
                (local $n i32) {body})"#
        );
    }

    /// Imports a function, by its lowered signature, as `$name`.
    pub fn import(mut self, interface: &'static str, name: &str, signature: &str) -> Self {
        if !self.imported.contains(&interface) {
            self.imported.push(interface);
        }
        let _ = writeln!(
            self.imports,
            r#"(import "llamero:hooks/{interface}@0.1.0" "{name}" (func ${name} {signature}))"#
        );
        self
    }

    /// Adds module fields, such as further functions.
    pub fn with(mut self, fields: &str) -> Self {
        self.functions.push_str(fields);
        self
    }

    /// Limits of the memory in pages, instead of two pages to begin with.
    pub fn memory(mut self, limits: &str) -> Self {
        self.memory = Some(limits.to_owned());
        self
    }

    fn wat(&self) -> String {
        let mut data = String::new();
        for byte in &self.image.bytes {
            let _ = write!(data, "\\{byte:02x}");
        }
        let memory = self.memory.as_deref().unwrap_or("2");
        format!(
            r#"(module
            {imports}
            (memory (export "memory") {memory})
            (global $heap (mut i32) (i32.const {HEAP}))
            (global $calls (mut i32) (i32.const 0))
            (data (i32.const {IMAGE}) "{data}")
            ;; Never gives anything back: an instance serves one job.
            (func $alloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get 3)))
                (block $fits (loop $grow
                    (br_if $fits (i32.le_u (global.get $heap)
                        (i32.mul (memory.size) (i32.const 65536))))
                    (br_if $grow (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))
                    unreachable))
                (local.get $at))
            {functions})"#,
            imports = self.imports,
            functions = self.functions,
        )
    }

    /// The core module, with the section that says which component it is.
    pub fn module(&self) -> Vec<u8> {
        let mut module = wat::parse_str(self.wat()).unwrap();
        let mut resolve = Resolve::default();
        // Other crates of the workspace use this file too, from other depths.
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folders = crate_folder.ancestors().map(|folder| folder.join("wit"));
        resolve.push_dir(folders.find(|wit| wit.is_dir()).unwrap()).unwrap();
        let mut world = String::from("package test:guest;\nworld guest {\n");
        for import in &self.imported {
            let _ = writeln!(world, "import llamero:hooks/{import}@0.1.0;");
        }
        for export in &self.exports {
            let _ = writeln!(world, "export llamero:hooks/{export}@0.1.0;");
        }
        world.push('}');
        let package = resolve.push_str("guest.wit", &world).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        module
    }
}
