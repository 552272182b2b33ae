//! Compiles the protobuf files with a compiler written in Rust, so that no system `protoc` is needed.

use std::{env, error::Error, path::PathBuf};

use prost::Message as _;

const FILES: &[&str] = &[
    "segue/v1/common.proto",
    "segue/v1/worker.proto",
    "segue/v1/runs.proto",
    "segue/v1/services.proto",
    "segue/v1/store.proto",
    "segue/v1/schedules.proto",
    "segue/store/schedules.proto",
    "segue/v1/retention.proto",
    "segue/store/retention.proto",
    "segue/v1/events.proto",
    "segue/store/events.proto",
    "segue/v1/fleet.proto",
    "segue/store/fleet.proto",
    "externalscaler.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=segue");
    println!("cargo::rerun-if-changed=externalscaler.proto");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("segue.descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".")
        // A generated `connect` constructor would clash with the RPC of that name: clients are made from a channel.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
