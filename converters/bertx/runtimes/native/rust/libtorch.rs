//! Tells the linker to record where libtorch lies, so that the program finds it without LD_LIBRARY_PATH, and the
//! program which version it is.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Ok(libraries) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libraries}");
    let stated = Path::new(&libraries).with_file_name("version.py");
    let text = std::fs::read_to_string(stated).unwrap_or_default();
    let version = text.lines().find_map(|line| line.strip_prefix("__version__ = ")).unwrap_or("'unknown'");
    println!("cargo:rustc-env=LIBTORCH_VERSION={}", version.trim_matches('\''));
}
