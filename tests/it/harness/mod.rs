//! What the integration tests stand on: real servers that each test may break as it likes, and waiting without sleeping.

pub(crate) mod browser;
pub(crate) mod clock;
pub(crate) mod event;
pub(crate) mod history;
pub(crate) mod ledger;
pub(crate) mod ports;
mod postgres;
mod programs;
pub(crate) mod proxy;
pub(crate) mod raw;
mod redis;
pub(crate) mod scripted;
pub(crate) mod served;
pub(crate) mod server;
pub(crate) mod shop;
pub(crate) mod stripe;
mod supervised;
mod wait;

pub(crate) use self::postgres::{PostgresServer, TestDatabase};
pub(crate) use self::redis::RedisServer;
pub(crate) use self::supervised::PATIENCE;
pub(crate) use self::wait::{eventually, until_ok};
