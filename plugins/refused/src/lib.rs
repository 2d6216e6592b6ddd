//! What the plugins share that a host must refuse to load. Each is one file of
//! `examples/` and has one fault, shown before it could take a request.

/// Bindings of the plugins that a host must refuse to load.
#[allow(
    unsafe_code,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package llamero:refused;
            interface nowhere {
                go: func();
            }
            world refused-plugin {
                import nowhere;
                export llamero:hooks/lifecycle@0.1.0;
                export llamero:hooks/request-hook@0.1.0;
            }
        ",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_refused_plugin",
        default_bindings_module: "refused_plugins::bindings",
    });
}

use bindings::exports::llamero::hooks::lifecycle::PluginInfo;

/// What each of these plugins says of itself.
pub fn info(name: &str) -> PluginInfo {
    PluginInfo {
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        description: "A plugin that a host must refuse to load.".to_owned(),
        config_schema: None,
    }
}

/// Makes a type the plugin of its file.
///
/// Only for WebAssembly: the names of the exports are none that the linkers of
/// other targets take, and `cargo test` builds the examples for the host too.
#[macro_export]
macro_rules! export {
    ($plugin:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::bindings::export_refused_plugin!($plugin);
        #[cfg(not(target_family = "wasm"))]
        const _: $plugin = $plugin;
    };
}
