//! `RegistryService`: models, versions, aliases.

use segue_proto::{
    convert::id,
    v1::{self, registry_service_server::RegistryService},
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{registry, server::error::Error};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct Registry(pub Shared);

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn list_models(&self, _: Request<v1::ListModelsRequest>) -> Result<Response<v1::ListModelsResponse>, Status> {
        let models = self.0.blocking(|shared| Ok(registry::list(&*shared.store)?)).await?;
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn get_model(&self, request: Request<v1::GetModelRequest>) -> Result<Response<v1::ModelView>, Status> {
        let reference = request.into_inner().reference;
        let model = self.0.blocking(move |shared| Ok(registry::get(&*shared.store, &reference)?)).await?;
        Ok(Response::new(model))
    }

    async fn set_alias(&self, request: Request<v1::SetAliasRequest>) -> Result<Response<v1::SetAliasResponse>, Status> {
        let request = request.into_inner();
        let name = id("name", request.name).map_err(Error::from)?;
        let alias = id("alias", request.alias).map_err(Error::from)?;
        let previous = self.0.handle.set_alias(name, alias, request.version).await?;
        Ok(Response::new(v1::SetAliasResponse { previous }))
    }
}
