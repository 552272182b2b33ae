//! The link to the coordinator: register, heartbeat, leases, drain, logs.
