//! Models, their immutable versions and their movable names, with their lineage.
//!
//! Everything here reads the store and adds to a [`Batch`]: a version appears in the same commit as the attempt that
//! made it. The preconditions in the batch refuse two writers that choose the same number.

mod reference;
mod register;

use segue_proto::{
    ids::{AliasName, ModelName},
    v1,
};

use crate::store::{Batch, Error, Key, Store, codec, keys::prefix, read, visit};

pub use reference::{Pick, Reference};
pub use register::{Lineage, register};

/// Lists every model with its versions (oldest first) and aliases, by name. `chosen` is the latest version.
///
/// # Errors
/// Those of the store, and [`Error::Corrupt`].
pub fn list(store: &dyn Store) -> Result<Vec<v1::ModelView>, Error> {
    let mut views: Vec<v1::ModelView> = Vec::new();
    visit(store, &prefix::all_model_versions(), |key, value| {
        let (key, version) = codec::decode_row::<v1::ModelVersion>(&key, &value)?;
        let Key::ModelVersion { name, .. } = &key else {
            return Err(Error::corrupt(key, "not a model version"));
        };
        match views.last_mut().filter(|view| view.name == name.as_str()) {
            Some(view) => view.versions.push(version),
            None => views.push(v1::ModelView {
                name: name.as_str().to_owned(),
                versions: vec![version],
                ..Default::default()
            }),
        }
        Ok(())
    })?;
    for view in &mut views {
        let name = ModelName::try_from(view.name.clone()).map_err(|e| Error::corrupt("model-version", e))?;
        view.aliases = aliases(store, &name)?;
        view.chosen = view.versions.last().map_or(0, |last| last.version);
    }
    Ok(views)
}

/// Gives one model with all its versions; `chosen` is the version that the reference names.
///
/// # Errors
/// [`Error::Model`] for a reference that cannot be read; [`Error::NoModel`] with what is nearest, if the model, the
/// version or the alias does not exist; those of the store.
pub fn get(store: &dyn Store, reference: &str) -> Result<v1::ModelView, Error> {
    let reference: Reference = reference.parse()?;
    let name = &reference.name;
    let mut versions: Vec<v1::ModelVersion> = Vec::new();
    visit(store, &prefix::model_versions(name), |key, value| {
        versions.push(codec::decode_row(&key, &value)?.1);
        Ok(())
    })?;
    let aliases = aliases(store, name)?;
    let Some(latest) = versions.last().map(|last| last.version) else {
        return Err(no_such_model(store, name)?);
    };
    let chosen = match &reference.pick {
        Pick::Latest => latest,
        Pick::Version(wanted) => *wanted,
        Pick::Alias(alias) => *aliases.get(alias.as_str()).ok_or_else(|| {
            let nearest = crate::spec::nearest(alias.as_str(), aliases.keys().map(String::as_str));
            let hint = match nearest {
                Some(nearest) => format!("did you mean `{name}@{nearest}`?"),
                None if aliases.is_empty() => format!("`{name}` has no aliases: set one with `segue models alias`"),
                None => format!("it has {}", aliases.keys().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(", ")),
            };
            Error::NoModel { what: format!("alias `{alias}` of model `{name}`"), hint: Some(hint) }
        })?,
    };
    if versions.iter().all(|version| version.version != chosen) {
        let hint = format!("its versions go from {} to {latest}", versions.first().map_or(latest, |v| v.version));
        return Err(Error::NoModel { what: format!("version {chosen} of model `{name}`"), hint: Some(hint) });
    }
    Ok(v1::ModelView { name: name.as_str().to_owned(), versions, aliases, chosen })
}

/// Adds the move of an alias to a batch and gives the version that it named before, 0 for none.
///
/// # Errors
/// [`Error::NoModel`] if the version does not exist; those of the store.
pub fn set_alias(
    store: &dyn Store,
    batch: &mut Batch,
    name: &ModelName,
    alias: &AliasName,
    version: u32,
) -> Result<u32, Error> {
    get(store, &format!("{name}:{version}"))?;
    let key = Key::Alias { name: name.clone(), alias: alias.clone() };
    let now = store.get(&key.encode())?;
    let previous = match &now {
        Some(bytes) => codec::decode::<v1::SetAliasRequest>(&key, bytes)?.version,
        None => 0,
    };
    batch.require_unchanged(&key, now);
    batch.put(&key, &alias_record(name, alias, version));
    Ok(previous)
}

/// Gives one version, if it exists.
///
/// # Errors
/// Those of the store, and [`Error::Corrupt`].
pub fn version(store: &dyn Store, name: &ModelName, version: u32) -> Result<Option<v1::ModelVersion>, Error> {
    read(store, &Key::ModelVersion { name: name.clone(), version })
}

fn alias_record(name: &ModelName, alias: &AliasName, version: u32) -> v1::SetAliasRequest {
    v1::SetAliasRequest { name: name.as_str().to_owned(), alias: alias.as_str().to_owned(), version }
}

fn aliases(store: &dyn Store, name: &ModelName) -> Result<std::collections::BTreeMap<String, u32>, Error> {
    let mut aliases = std::collections::BTreeMap::new();
    visit(store, &prefix::aliases(name), |key, value| {
        let (_, record) = codec::decode_row::<v1::SetAliasRequest>(&key, &value)?;
        aliases.insert(record.alias, record.version);
        Ok(())
    })?;
    Ok(aliases)
}

fn no_such_model(store: &dyn Store, name: &ModelName) -> Result<Error, Error> {
    let mut names: Vec<String> = list(store)?.into_iter().map(|view| view.name).collect();
    names.sort_unstable();
    let hint = match crate::spec::nearest(name.as_str(), names.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if names.is_empty() => "no model has been registered yet".to_owned(),
        None => "see `segue models list`".to_owned(),
    };
    Ok(Error::NoModel { what: format!("model `{name}`"), hint: Some(hint) })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
