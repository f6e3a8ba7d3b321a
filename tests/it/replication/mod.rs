//! Pools with several replicas of each key: what the clients of several proxies see while stores, connections and
//! proxies fail, and what the stores hold when it is over.

mod checks;
mod faults;
mod trouble;
mod workload;
