//! What is wrong with a flatbuffer that the verifier rejects, in terms of the schema.

use flatbuffers::{ErrorTraceDetail, InvalidFlatbuffer};

use super::field_path::shown;

/// Nested tables of a message, at most.
pub(super) const MAX_DEPTH: usize = 64;

/// One sentence. For text that is not UTF-8 it names the field, and the key of its metadata.
pub(super) fn describe_malformed(error: &InvalidFlatbuffer, buffer: &[u8]) -> String {
    match error {
        InvalidFlatbuffer::Utf8Error { error_trace, .. } => {
            describe_text(error_trace.as_ref(), buffer).unwrap_or_else(|| "a text is not UTF-8".to_string())
        }
        InvalidFlatbuffer::ApparentSizeTooLarge => {
            "its tables and texts are used more than once: unpacked it would be many times its size".into()
        }
        InvalidFlatbuffer::DepthLimitReached => {
            format!("its fields are nested too deep: the limit is {MAX_DEPTH} tables")
        }
        InvalidFlatbuffer::TooManyTables => "it has more tables than its size allows".into(),
        // The further lines trace the verifier's path.
        other => other.to_string().lines().next().unwrap_or_default().to_string(),
    }
}

/// Which text is not UTF-8. The trace begins with it and ends at the message.
fn describe_text(trace: &[ErrorTraceDetail], buffer: &[u8]) -> Option<String> {
    let ErrorTraceDetail::TableField { field_name: text, .. } = trace.first()? else { return None };
    let mut fields = Vec::new();
    let mut key = None;
    for pair in trace.windows(2).rev() {
        if let [ErrorTraceDetail::VectorElement { index, position }, ErrorTraceDetail::TableField { field_name, .. }] =
            pair
        {
            let first_text = first_text_of(buffer, *position);
            match &**field_name {
                "fields" | "children" => fields.push(first_text.unwrap_or_else(|| format!("#{index}"))),
                "custom_metadata" => key = Some(first_text.unwrap_or_else(|| format!("#{index}"))),
                _ => {}
            }
        }
    }
    let place = match fields.is_empty() {
        true => "the schema's".to_string(),
        false => format!("field {:?}: the", fields.join(".")),
    };
    Some(match (&**text, key) {
        ("name", _) => format!("{place} name is not UTF-8"),
        ("key", Some(key)) => format!("{place} metadata key {key:?} is not UTF-8"),
        (_, Some(key)) => {
            format!("{place} metadata value of the key {key:?} is not UTF-8: encode it as text, for example by base64")
        }
        (other, None) => format!("{place} {other} is not UTF-8"),
    })
}

/// The text in the first slot of the table of a vector's element: the name of a field, or the key of a pair.
fn first_text_of(buffer: &[u8], element: usize) -> Option<String> {
    let u32_at = |at: usize| {
        let bytes = buffer.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes) as usize)
    };
    let u16_at = |at: usize| {
        let bytes = buffer.get(at..)?.first_chunk::<2>()?;
        Some(usize::from(u16::from_le_bytes(*bytes)))
    };
    let table = element.checked_add(u32_at(element)?)?;
    let to_vtable = i32::from_le_bytes(*buffer.get(table..)?.first_chunk::<4>()?);
    let vtable = usize::try_from(i64::try_from(table).ok()? - i64::from(to_vtable)).ok()?;
    if u16_at(vtable)? < 6 {
        return None;
    }
    let slot = table.checked_add(u16_at(vtable + 4)?)?;
    let text = slot.checked_add(u32_at(slot)?)?;
    let length = u32_at(text)?;
    let bytes = buffer.get(text + 4..)?.get(..length)?;
    Some(shown(&String::from_utf8_lossy(bytes)))
}
