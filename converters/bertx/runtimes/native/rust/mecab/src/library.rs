//! MeCab's C API, of a library that is loaded when it is needed.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ushort, c_void, CStr, CString};
use std::path::Path;
use std::ptr::NonNull;
use std::slice;

use anyhow::{bail, ensure, Context, Result};
use libloading::{Library, Symbol};

/// What systems call MeCab's library.
const SYSTEM: [&str; 4] = ["libmecab.so.2", "libmecab.so", "libmecab.2.dylib", "libmecab.dll"];
/// `stat` of the node after the last word.
const END: c_uchar = 3;

/// `mecab_node_t` of mecab.h, as far as it is read here.
#[repr(C)]
struct Node {
    prev: *const Node,
    next: *const Node,
    enext: *const Node,
    bnext: *const Node,
    rpath: *const c_void,
    lpath: *const c_void,
    surface: *const c_char,
    feature: *const c_char,
    id: c_uint,
    length: c_ushort,
    rlength: c_ushort,
    rc_attr: c_ushort,
    lc_attr: c_ushort,
    posid: c_ushort,
    char_type: c_uchar,
    stat: c_uchar,
}

type New = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;
type Parse = unsafe extern "C" fn(*mut c_void, *const c_char) -> *const Node;
type Error = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type Destroy = unsafe extern "C" fn(*mut c_void);

/// An open MeCab.
pub(crate) struct Tagger {
    mecab: NonNull<c_void>,
    parse: Parse,
    error: Error,
    destroy: Destroy,
    // Last, so that it is closed after what came from it.
    _library: Library,
}

// A tagger has no ties to the thread that made it; two threads at a time would need `Sync`.
unsafe impl Send for Tagger {}

impl Tagger {
    /// Opens a library, the system's where none is named, with MeCab's options.
    pub(crate) fn open(options: &[String], library: Option<&Path>) -> Result<Self> {
        let library = load(library)?;
        // -C: MeCab keeps a copy of each text, to which the surfaces point.
        let words = ["mecab", "-C"].into_iter().chain(options.iter().map(String::as_str));
        let words = words.map(CString::new).collect::<Result<Vec<_>, _>>().context("MeCab's options")?;
        let mut pointers: Vec<_> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
        // The types are those of mecab.h, which has not changed them since 2012.
        unsafe {
            let new = *symbol::<New>(&library, "mecab_new")?;
            let parse = *symbol::<Parse>(&library, "mecab_sparse_tonode")?;
            let error = *symbol::<Error>(&library, "mecab_strerror")?;
            let destroy = *symbol::<Destroy>(&library, "mecab_destroy")?;
            let made = new(pointers.len() as c_int, pointers.as_mut_ptr());
            let Some(mecab) = NonNull::new(made) else {
                bail!("MeCab cannot open the dictionary: {}", text(error(std::ptr::null_mut())));
            };
            Ok(Self { mecab, parse, error, destroy, _library: library })
        }
    }

    /// The words of a text. MeCab takes it up to its first U+0000, and gives no word for spaces.
    pub(crate) fn surfaces(&mut self, given: &str) -> Result<Vec<String>> {
        let given = CString::new(given.split('\0').next().unwrap_or_default())?;
        let mut found = Vec::new();
        // The nodes live until the next call, and the surfaces are not terminated.
        unsafe {
            let mut node = (self.parse)(self.mecab.as_ptr(), given.as_ptr());
            ensure!(!node.is_null(), "MeCab cannot divide a text: {}", text((self.error)(self.mecab.as_ptr())));
            while let Some(next) = (*node).next.as_ref().filter(|next| next.stat != END) {
                let bytes = slice::from_raw_parts(next.surface.cast::<u8>(), usize::from(next.length));
                found.push(std::str::from_utf8(bytes).context("MeCab divided a character")?.to_owned());
                node = next;
            }
        }
        Ok(found)
    }
}

impl Drop for Tagger {
    fn drop(&mut self) {
        unsafe { (self.destroy)(self.mecab.as_ptr()) }
    }
}

fn load(library: Option<&Path>) -> Result<Library> {
    // What runs when a library is loaded is the library's own: it is one that the user installed.
    if let Some(path) = library {
        return unsafe { Library::new(path) }.with_context(|| format!("MeCab's library {}", path.display()));
    }
    let found = SYSTEM.into_iter().find_map(|name| unsafe { Library::new(name) }.ok());
    found.with_context(|| format!("there is no MeCab library here ({}): install MeCab", SYSTEM.join(", ")))
}

unsafe fn symbol<'a, T>(library: &'a Library, name: &str) -> Result<Symbol<'a, T>> {
    library.get(name).with_context(|| format!("the library is not MeCab's: it has no {name}"))
}

unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return "it says nothing".to_owned();
    }
    CStr::from_ptr(pointer).to_string_lossy().into_owned()
}
