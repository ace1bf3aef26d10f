//! Style sheet, script and picture, which are compiled in: pages fetch nothing from elsewhere.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use volley_common::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::page_error::PageError;

/// A file that pages link to.
struct PageAsset {
    name: &'static str,
    media_type: &'static str,
    content: &'static str,
}

static ASSETS: [PageAsset; 3] = [
    PageAsset {
        name: "volley.css",
        media_type: "text/css; charset=utf-8",
        content: include_str!("../../assets/volley.css"),
    },
    PageAsset {
        name: "volley.js",
        media_type: "text/javascript; charset=utf-8",
        content: include_str!("../../assets/volley.js"),
    },
    PageAsset { name: "volley.svg", media_type: "image/svg+xml", content: include_str!("../../assets/volley.svg") },
];

/// Their addresses, which change with the content: browsers keep what they have.
static ADDRESSES: LazyLock<[String; 3]> = LazyLock::new(|| {
    let address = |asset: &PageAsset| format!("/ui/assets/{}?v={:016x}", asset.name, xxh3_64(asset.content.as_bytes()));
    [address(&ASSETS[0]), address(&ASSETS[1]), address(&ASSETS[2])]
});

/// The addresses of style sheet, script and picture.
pub(crate) fn addresses() -> &'static [String; 3] {
    &ADDRESSES
}

/// Sends a file.
pub(crate) async fn get(Path(name): Path<String>) -> Result<Response, PageError> {
    let asset = ASSETS.iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| Error::not_found("there is no such file"))?;
    let mut response = Response::new(Body::from(asset.content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_fetch_nothing_from_elsewhere() {
        for asset in &ASSETS {
            let text = asset.content.replace("http://www.w3.org/2000/svg", "");
            for word in ["http:", "https:", "//cdn", "@import", "url("] {
                assert!(!text.contains(word), "{} has {word}", asset.name);
            }
        }
    }
}
