//! Matrices in and out of operators, as `.npy` files. Equal matrices give equal bytes.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use ndarray::Array2;
use ndarray_npy::{ReadNpyExt, ReadableElement, WritableElement, WriteNpyExt};
use serde_json::json;

use super::{Context, OpError};

/// Longest header that is looked at.
const HEADER_BYTES: u64 = 64 * 1024;

/// Reads a matrix, into row-major order.
///
/// # Errors
/// Class `data` if the file is not a matrix of this element type, `infra` if it cannot be opened.
pub fn read<T: ReadableElement + Clone>(path: &Path) -> Result<Array2<T>, OpError> {
    let not_a_matrix = |why: String| OpError::data(format!("{} is not an npy matrix: {why}", path.display()));
    let open = || File::open(path).map_err(|e| OpError::infra(format!("cannot open {}: {e}", path.display())));
    let file = open()?;
    let bytes = file.metadata().map_err(|e| OpError::infra(format!("cannot read {}: {e}", path.display())))?.len();
    // The reader allocates what the header asks for before it reads: a header that promises more than the file holds
    // must not get that far.
    let mut head = Vec::new();
    open()?.take(HEADER_BYTES).read_to_end(&mut head).map_err(|e| not_a_matrix(e.to_string()))?;
    if promised_elements(&head).is_some_and(|count| count.saturating_mul(size_of::<T>() as u64) > bytes) {
        return Err(not_a_matrix(format!("its header promises more numbers than its {bytes} bytes hold")));
    }
    let matrix = Array2::<T>::read_npy(BufReader::new(file)).map_err(|e| not_a_matrix(e.to_string()))?;
    Ok(matrix.as_standard_layout().into_owned())
}

/// Writes a matrix as an output and describes its shape.
///
/// # Errors
/// Class `infra` if the disk refuses.
pub fn write<T: WritableElement>(context: &mut Context, output: &str, matrix: &Array2<T>) -> Result<(), OpError> {
    let refused = |e: String| OpError::infra(format!("cannot write output `{output}`: {e}"));
    let mut file = BufWriter::new(File::create(context.output(output)).map_err(|e| refused(e.to_string()))?);
    matrix.write_npy(&mut file).map_err(|e| refused(e.to_string()))?;
    file.flush().map_err(|e| refused(e.to_string()))?;
    context.describe(output, json!({"shape": [matrix.nrows(), matrix.ncols()], "type": std::any::type_name::<T>()}));
    Ok(())
}

/// Gives the product of the shape in an npy header; `None` where there is no shape to be found, which the reader says
/// better.
fn promised_elements(head: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"'shape':";
    let at = head.windows(KEY.len()).position(|window| window == KEY)?;
    let rest = std::str::from_utf8(head[at + KEY.len()..].split(|b| *b == b')').next()?).ok()?;
    let mut product = 1u64;
    for part in rest.trim_start().trim_start_matches('(').split(',').map(str::trim).filter(|part| !part.is_empty()) {
        // A number too long for u64 is certainly more than the file holds.
        product = product.saturating_mul(part.parse().unwrap_or(u64::MAX));
    }
    Some(product)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use ndarray::array;
    use segue_proto::failure::FailureClass;

    use super::*;

    fn context(dir: &tempfile::TempDir) -> Context {
        Context::new(BTreeMap::new(), dir.path().to_owned(), serde_json::Map::new())
    }

    #[test]
    fn a_matrix_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut context = context(&dir);
        let matrix = array![[1.0f32, -2.5, 3.0], [0.0, f32::MIN, 1e-30]];
        write(&mut context, "m", &matrix).unwrap();
        assert_eq!(read::<f32>(&context.output("m")).unwrap(), matrix);
        assert_eq!(context.schemas()["m"], json!({"shape": [2, 3], "type": "f32"}));
        write(&mut context, "none", &Array2::<f32>::zeros((0, 384))).unwrap();
        assert_eq!(read::<f32>(&context.output("none")).unwrap().dim(), (0, 384));
    }

    #[test]
    fn files_that_are_no_matrix_are_data_errors() {
        let dir = tempfile::tempdir().unwrap();
        let mut context = context(&dir);
        write(&mut context, "m", &array![[1.0f32, 2.0]]).unwrap();
        let whole = std::fs::read(context.output("m")).unwrap();
        let grown = String::from_utf8_lossy(&whole).into_owned().replace("(1, 2)", "(999999999, 999999999)");
        for bytes in [b"".to_vec(), b"garbage".to_vec(), whole[..whole.len() - 3].to_vec(), grown.into_bytes()] {
            let path = dir.path().join("bad");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read::<f32>(&path).unwrap_err().0.class, FailureClass::Data);
        }
        assert_eq!(read::<f64>(&context.output("m")).unwrap_err().0.class, FailureClass::Data);
        assert_eq!(read::<f32>(&dir.path().join("absent")).unwrap_err().0.class, FailureClass::Infra);
    }

    #[test]
    fn the_promise_of_a_header_is_the_product_of_its_shape() {
        assert_eq!(promised_elements(b"\x93NUMPY {'descr': '<f4', 'shape': (3, 384), }"), Some(1152));
        assert_eq!(promised_elements(b"'shape': (99999999999999999999999, 2), "), Some(u64::MAX));
        assert_eq!(promised_elements(b"'shape': (0, 384)"), Some(0));
        assert_eq!(promised_elements(b"nothing"), None);
    }
}
