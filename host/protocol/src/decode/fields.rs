//! Picks known fields out of an object: any ASCII case, the last one wins,
//! `null` is absent, and a wrong type is reported by the field's path.
//!
//! Which fields a message has is `request` and `response`.

use serde_json::Number;

use super::Node;

/// The members of an object, and where in the message it stands.
pub(super) struct Fields {
    path: String,
    members: Vec<(String, Node)>,
}

/// A field that is present, with its path for error messages.
pub(super) struct Field {
    path: String,
    node: Node,
}

impl Fields {
    pub(super) fn new(path: impl Into<String>, members: Vec<(String, Node)>) -> Self {
        Self { path: path.into(), members }
    }

    /// Takes the field `name` out of the object.
    pub(super) fn take(&mut self, name: &str) -> Option<Field> {
        let found =
            self.members.iter_mut().rev().find(|(spelling, _)| spelling.eq_ignore_ascii_case(name));
        match found.map(|(_, node)| std::mem::take(node)) {
            None | Some(Node::Null) => None,
            Some(node) => Some(Field { path: join(&self.path, name), node }),
        }
    }

    /// A text, empty when absent.
    pub(super) fn text(&mut self, name: &str) -> Result<String, String> {
        self.take(name).map_or(Ok(String::new()), Field::text)
    }

    /// An object, or nothing when absent.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Fields>, String> {
        self.take(name).map(Field::object).transpose()
    }

    /// A list, empty when absent.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Field>, String> {
        self.take(name).map_or(Ok(Vec::new()), Field::list)
    }

    /// True or false; false when absent.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, String> {
        self.take(name).map_or(Ok(false), Field::flag)
    }

    /// All members, for objects whose names are not fields.
    pub(super) fn into_members(self) -> Vec<(String, Node)> {
        self.members
    }
}

impl Field {
    pub(super) fn wrong(&self, expected: &str) -> String {
        format!("field {} must be {expected}, it is {}", self.path, self.node.type_name())
    }

    pub(super) fn into_node(self) -> Node {
        self.node
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.node, Node::Text(_))
    }

    pub(super) fn text(self) -> Result<String, String> {
        match self.node {
            Node::Text(text) => Ok(text),
            _ => Err(self.wrong("a string")),
        }
    }

    pub(super) fn object(self) -> Result<Fields, String> {
        match self.node {
            Node::Object(members) => Ok(Fields::new(self.path, members)),
            _ => Err(self.wrong("an object")),
        }
    }

    /// The elements. `null` among them is the empty value of its type, as in Go:
    /// leaving it out would move the others.
    pub(super) fn list(self) -> Result<Vec<Field>, String> {
        match self.node {
            Node::List(items) => {
                let element =
                    |(index, node)| Field { path: format!("{}[{index}]", self.path), node };
                Ok(items.into_iter().enumerate().map(element).collect())
            }
            _ => Err(self.wrong("an array")),
        }
    }

    pub(super) fn flag(self) -> Result<bool, String> {
        match self.node {
            Node::Bool(value) => Ok(value),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub(super) fn number(self) -> Result<Number, String> {
        match self.node {
            Node::Number(number) => Ok(number),
            _ => Err(self.wrong("a number")),
        }
    }

    /// As [`text`](Self::text), and `null` is empty.
    pub(super) fn text_or_empty(self) -> Result<String, String> {
        if matches!(self.node, Node::Null) { Ok(String::new()) } else { self.text() }
    }

    /// As [`object`](Self::object), and `null` is empty.
    pub(super) fn object_or_empty(self) -> Result<Fields, String> {
        if matches!(self.node, Node::Null) {
            Ok(Fields::new(self.path, Vec::new()))
        } else {
            self.object()
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
