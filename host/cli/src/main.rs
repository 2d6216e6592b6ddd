//! The `llamero` executable: hands the arguments to the library and the exit
//! code to the operating system.

use std::process::ExitCode;

fn main() -> ExitCode {
    llamero_cli::main(std::env::args_os())
}
