//! Commands about users, service tokens, grants, signing keys and quotas.

use rand::Rng;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AddSigningKey, CreateToken, Grant, PutGrant, PutUser, PutUserMode, Quota, RemoveGrant, RemoveUser,
    ResetAdministrator, RevokeToken, Role, RotateTicketKey, ServiceToken, SetQuota, SigningKey, User,
};

use crate::rng::SimRng;

/// A random command; many are refused. `number` differs between most commands.
pub fn identity_command(rng: &mut SimRng, number: u64, now_ms: u64) -> Op {
    let name = format!("u{}", rng.random_range(0..3));
    let id = format!("{:016x}", rng.random_range(0..4));
    let to = format!("user:{name}");
    let role = [Role::Admin, Role::Reader][rng.random_range(0..2)] as i32;
    let mode = [PutUserMode::Bootstrap, PutUserMode::Create, PutUserMode::Password, PutUserMode::Groups];
    match rng.random_range(0..12) {
        0..3 => {
            let groups = vec![format!("g{}", rng.random_range(0..9))];
            let user = User { name, password_hash: "hash".into(), groups, generation: number, ..User::default() };
            Op::PutUser(PutUser { user: Some(user), mode: mode[rng.random_range(0..4)] as i32 })
        }
        3 => Op::RemoveUser(RemoveUser { name }),
        4 => {
            let (secret_sha256, expires_ms) = (vec![7; 32].into(), now_ms + rng.random_range(100..5000));
            let token = ServiceToken { id, user: name, secret_sha256, expires_ms, ..ServiceToken::default() };
            Op::CreateToken(CreateToken { token: Some(token) })
        }
        5 => Op::RevokeToken(RevokeToken { id }),
        6 => Op::PutGrant(PutGrant { grant: Some(Grant { to, role, ..Grant::default() }) }),
        7 => Op::RemoveGrant(RemoveGrant { to, role, prefix: Vec::new() }),
        8 => {
            let key = SigningKey { id: number.to_string(), public_key: vec![3; 32].into(), ..SigningKey::default() };
            let (older_than_ms, revoke_others) = (rng.random_range(0..2000), rng.random_bool(0.2));
            Op::AddSigningKey(AddSigningKey { key: Some(key), older_than_ms, revoke_others })
        }
        9 => {
            let user = User { name, password_hash: "hash".into(), generation: number, ..User::default() };
            Op::ResetAdministrator(ResetAdministrator { user: Some(user), after: 0 })
        }
        10 => Op::RotateTicketKey(RotateTicketKey {
            key: vec![number as u8; 32].into(),
            sign_after_ms: rng.random_range(0..500),
            keep_former_ms: rng.random_range(0..500),
            revoke_former: rng.random_bool(0.5),
        }),
        _ => {
            // Too large to be reached: the history of a table knows no quotas.
            let prefix = vec![format!("t{}", rng.random_range(0..3))];
            let bytes = u64::from(rng.random_bool(0.7)) << 40;
            Op::SetQuota(SetQuota { quota: Some(Quota { prefix, bytes, tables: 0 }) })
        }
    }
}
