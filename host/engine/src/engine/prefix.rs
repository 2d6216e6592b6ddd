//! A radix tree over the tokens of sequences: who begins as this prompt does?
//!
//! Every member is a sequence id with the tokens it holds or is going to hold.
//! Members of different salts never meet. The tree knows nothing of cells, of
//! time or of what a match is good for.
//!
//! A node stands for a run of tokens that all its members share. Members are a
//! bit set, because llama.cpp has at most 256 sequences, and the set of a child
//! is always a part of its parent's.

use std::collections::HashMap;

use crate::config::MAX_SLOTS;

const WORDS: usize = MAX_SLOTS.div_ceil(64) as usize;

/// A set of sequence ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Members([u64; WORDS]);

impl Members {
    fn insert(&mut self, id: usize) {
        self.0[id / 64] |= 1 << (id % 64);
    }

    fn remove(&mut self, id: usize) {
        self.0[id / 64] &= !(1 << (id % 64));
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn without(&self, other: &Self) -> Self {
        let mut rest = *self;
        for (word, other) in rest.0.iter_mut().zip(other.0) {
            *word &= !other;
        }
        rest
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.0;
        (0..WORDS * 64).filter(move |id| words[id / 64] & (1 << (id % 64)) != 0)
    }
}

#[derive(Debug, Default)]
struct Node {
    /// The tokens between the parent and here; only a root has none.
    edge: Vec<u32>,
    /// At most one child for each first token.
    children: Vec<usize>,
    members: Members,
}

#[derive(Debug)]
struct Entry {
    salt: String,
    tokens: Vec<u32>,
}

/// The tree; sequence ids are below [`MAX_SLOTS`].
#[derive(Debug, Default)]
pub(crate) struct PrefixTree {
    nodes: Vec<Node>,
    unused: Vec<usize>,
    /// One root for each salt that has members.
    roots: HashMap<String, usize>,
    entries: HashMap<usize, Entry>,
}

impl PrefixTree {
    /// Makes `id` a member with these tokens, in place of what it had.
    pub(crate) fn insert(&mut self, id: usize, salt: &str, tokens: &[u32]) {
        self.remove(id);
        if id >= WORDS * 64 || tokens.is_empty() {
            return;
        }
        let mut at = match self.roots.get(salt) {
            Some(root) => *root,
            None => {
                let root = self.create(Node::default());
                self.roots.insert(salt.to_string(), root);
                root
            }
        };
        self.nodes[at].members.insert(id);
        let mut rest = tokens;
        while let Some(first) = rest.first() {
            let Some(child) = self.child(at, *first) else {
                let mut members = Members::default();
                members.insert(id);
                let leaf = self.create(Node { edge: rest.to_vec(), children: Vec::new(), members });
                self.nodes[at].children.push(leaf);
                break;
            };
            let n = common(&self.nodes[child].edge, rest);
            if n < self.nodes[child].edge.len() {
                self.split(child, n);
            }
            self.nodes[child].members.insert(id);
            rest = &rest[n..];
            at = child;
        }
        self.entries.insert(id, Entry { salt: salt.to_string(), tokens: tokens.to_vec() });
    }

    /// Ends a membership; without effect if there is none.
    pub(crate) fn remove(&mut self, id: usize) {
        let Some(entry) = self.entries.remove(&id) else { return };
        let Some(root) = self.roots.get(&entry.salt).copied() else { return };
        let mut path = vec![root];
        let mut rest = entry.tokens.as_slice();
        while let Some(child) = rest.first().and_then(|t| self.child(path[path.len() - 1], *t)) {
            rest = &rest[self.nodes[child].edge.len().min(rest.len())..];
            path.push(child);
        }
        for node in &path {
            self.nodes[*node].members.remove(id);
        }
        // Below a node without members there are none either.
        let empty = path.iter().position(|n| self.nodes[*n].members.is_empty());
        let kept = empty.unwrap_or(path.len());
        let removed = path.split_off(kept);
        match (path.last(), removed.first()) {
            (Some(parent), Some(first)) => {
                self.nodes[*parent].children.retain(|child| child != first);
            }
            (None, _) => {
                self.roots.remove(&entry.salt);
            }
            (Some(_), None) => {}
        }
        for node in removed {
            self.nodes[node] = Node::default();
            self.unused.push(node);
        }
        if let Some(last) = path.last().filter(|last| **last != root) {
            self.join(*last);
        }
    }

    /// Every member of the salt that shares at least one token with the
    /// beginning of `tokens`, and how many.
    pub(crate) fn matches(&self, salt: &str, tokens: &[u32]) -> Vec<(usize, usize)> {
        let Some(mut at) = self.roots.get(salt).copied() else { return Vec::new() };
        let mut path = Vec::new();
        let mut depth = 0;
        while let Some(child) = tokens.get(depth).and_then(|token| self.child(at, *token)) {
            let node = &self.nodes[child];
            let n = common(&node.edge, &tokens[depth..]);
            depth += n;
            path.push((node.members, depth));
            if n < node.edge.len() {
                break;
            }
            at = child;
        }
        let mut found = Vec::new();
        let mut deeper = Members::default();
        for (members, depth) in path.into_iter().rev() {
            found.extend(members.without(&deeper).iter().map(|id| (id, depth)));
            deeper = members;
        }
        found
    }

    fn create(&mut self, node: Node) -> usize {
        match self.unused.pop() {
            Some(at) => {
                self.nodes[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    fn child(&self, at: usize, first: u32) -> Option<usize> {
        let children = self.nodes[at].children.iter().copied();
        children.into_iter().find(|child| self.nodes[*child].edge.first() == Some(&first))
    }

    /// Parts an edge after `n` tokens; what follows moves into a new child.
    fn split(&mut self, at: usize, n: usize) {
        let node = &mut self.nodes[at];
        let tail = Node {
            edge: node.edge.split_off(n),
            children: std::mem::take(&mut node.children),
            members: node.members,
        };
        let child = self.create(tail);
        self.nodes[at].children.push(child);
    }

    /// Joins a node with its only child if nobody ends between the two.
    fn join(&mut self, at: usize) {
        if let [child] = self.nodes[at].children[..]
            && self.nodes[child].members == self.nodes[at].members
        {
            let tail = std::mem::take(&mut self.nodes[child]);
            self.unused.push(child);
            self.nodes[at].edge.extend(tail.edge);
            self.nodes[at].children = tail.children;
        }
    }

    #[cfg(test)]
    fn n_nodes(&self) -> usize {
        self.nodes.len() - self.unused.len()
    }
}

/// How many tokens two texts share from their beginning on.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(usize, String, Vec<u32>),
        Remove(usize),
    }

    fn tokens() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0u32..3, 0..12)
    }

    fn op() -> impl Strategy<Value = Op> {
        let id = prop_oneof![0usize..6, 250usize..256];
        prop_oneof![
            3 => (id.clone(), "[ab]?", tokens()).prop_map(|(id, salt, t)| Op::Insert(id, salt, t)),
            2 => id.prop_map(Op::Remove),
        ]
    }

    proptest! {
        /// The tree finds what comparing with every member finds.
        #[test]
        fn tree_equals_a_plain_map(
            ops in prop::collection::vec(op(), 0..60),
            probes in prop::collection::vec(("[ab]?", tokens()), 1..8),
        ) {
            let mut tree = PrefixTree::default();
            let mut model: BTreeMap<usize, (String, Vec<u32>)> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(id, salt, tokens) => {
                        tree.insert(id, &salt, &tokens);
                        model.remove(&id);
                        if !tokens.is_empty() {
                            model.insert(id, (salt, tokens));
                        }
                    }
                    Op::Remove(id) => {
                        tree.remove(id);
                        model.remove(&id);
                    }
                }
                for (salt, tokens) in &probes {
                    let mut found = tree.matches(salt, tokens);
                    found.sort_unstable();
                    let expected: Vec<(usize, usize)> = model.iter()
                        .filter(|(_, (other, _))| other == salt)
                        .map(|(id, (_, member))| (*id, common(member, tokens)))
                        .filter(|(_, n)| *n > 0)
                        .collect();
                    prop_assert_eq!(found, expected);
                }
                // Every member adds a leaf and at most one fork; roots are extra.
                prop_assert!(tree.n_nodes() <= 2 * model.len() + tree.roots.len());
            }
            for id in 0..256 {
                tree.remove(id);
            }
            prop_assert_eq!(tree.n_nodes(), 0, "nodes leaked");
            prop_assert!(tree.roots.is_empty());
        }
    }
}
