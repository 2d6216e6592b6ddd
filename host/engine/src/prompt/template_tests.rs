#![allow(clippy::unwrap_used, reason = "tests may panic")]

use super::*;

fn render(source: &str) -> Result<String, PromptError> {
    let messages =
        [ChatMessage { role: "user".to_string(), content: "<b>it's</b> & more".to_string() }];
    ChatTemplate::new(source.to_string(), "<s>".to_string(), "</s>".to_string())
        .render(&messages, true)
}

fn failure(source: &str) -> String {
    render(source).unwrap_err().to_string()
}

#[test]
fn nothing_is_escaped() {
    assert_eq!(render("{{ messages[0].content }}").unwrap(), "<b>it's</b> & more");
    assert_eq!(render("{{ bos_token }}{{ eos_token }}").unwrap(), "<s></s>");
}

#[test]
fn json_is_python_s() {
    assert_eq!(
        render("{{ {'a': [1, 'x'], 'b': messages[0].content} | tojson }}").unwrap(),
        r#"{"a": [1, "x"], "b": "<b>it's</b> & more"}"#
    );
    assert_eq!(
        render("{{ {'a': [1]} | tojson(indent=2) }}").unwrap(),
        "{\n  \"a\": [\n    1\n  ]\n}"
    );
}

#[test]
fn python_methods_and_blocks() {
    assert_eq!(
        render("{% if messages[0]['role'].upper() == 'USER' %}\nyes\n{% endif %}\nend").unwrap(),
        "yes\nend"
    );
    assert_eq!(
        render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}").unwrap(),
        "1"
    );
    assert_eq!(render("{{ ' x '.strip() ~ 'a,b'.split(',')[-1] }}").unwrap(), "xb");
    assert_eq!(
        render("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}ok")
            .unwrap(),
        "ok"
    );
    // What a template asks for and this engine does not have is undefined.
    assert_eq!(
        render("{% if tools %}t{% endif %}{% if enable_thinking is defined %}e{% endif %}")
            .unwrap(),
        ""
    );
}

#[test]
fn failures_say_what_and_where() {
    assert_eq!(
        failure("\n{{ raise_exception('roles must alternate') }}"),
        "chat template: roles must alternate (line 2)"
    );
    assert!(failure("{% if %}").starts_with("chat template: "));
    assert!(failure("{{ no_such_function() }}").contains("no_such_function"));
}

#[test]
fn hostile_templates_end() {
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(failure(endless).starts_with("chat template: runs too long"));
    let doubling = "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    assert!(failure(doubling).starts_with("chat template: runs too long"));
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(failure(deep).starts_with("chat template: "));
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(failure(&nested).starts_with("chat template: "));
}

#[test]
fn dates() {
    // 2024-02-29 13:05:09 UTC, a Thursday.
    let at = 1_709_211_909;
    assert_eq!(strftime("%d %b %Y", at), "29 Feb 2024");
    assert_eq!(strftime("%A, %B %-d, %Y %I:%M %p", at), "Thursday, February 29, 2024 01:05 PM");
    assert_eq!(strftime("%F %T %y %a %h %j %%", at), "2024-02-29 13:05:09 24 Thu Feb %j %");
    assert_eq!(strftime("%Y-%m-%d", 0), "1970-01-01");
    assert_eq!(strftime("%F", 951_782_400), "2000-02-29");
    assert_eq!(strftime("%F", 4_107_542_400), "2100-03-01");
    assert_eq!(strftime("100%", 0), "100%");
    assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
}
