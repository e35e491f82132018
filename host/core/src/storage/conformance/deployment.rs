//! What operators set: quotas, plugins, grants and keys.

use super::*;

pub async fn check(storage: &dyn Storage) {
    quotas_are_kept_as_they_were_set_last(storage).await;
    plugins_are_listed_in_order_of_their_last_push(storage).await;
    grants_replace_each_other(storage).await;
    keys_are_found_by_their_secret(storage).await;
}

async fn quotas_are_kept_as_they_were_set_last(storage: &dyn Storage) {
    let operator = Operator::host();
    let (pro, ann): (TierName, UserId) = ("pro".parse().expect("a tier"), "ann".parse().expect("a user id"));
    assert_eq!(storage.quotas(operator).await.expect("reads"), (vec![], vec![]));
    let edit = |runs| QuotaEdit { runs_at_once: Some(runs), ..QuotaEdit::default() };
    let quota = |runs| UserQuota { tier: Some(pro.clone()), edit: edit(runs) };
    for runs in [3, 2] {
        storage.put_tier(operator, &pro, &edit(runs)).await.expect("keeps");
        storage.put_user_quota(operator, &ann, &quota(runs)).await.expect("keeps");
        let kept = storage.quotas(operator).await.expect("reads");
        assert_eq!(kept, (vec![(pro.clone(), edit(runs))], vec![(ann.clone(), quota(runs))]));
    }
    storage.put_user_quota(operator, &ann, &UserQuota::default()).await.expect("keeps");
    assert_eq!(storage.quotas(operator).await.expect("reads").1, []);
}

async fn plugins_are_listed_in_order_of_their_last_push(storage: &dyn Storage) {
    let operator = Operator::host();
    assert_eq!(storage.plugins(operator).await.expect("lists"), []);
    let version = |name: &str, bytes: &[u8], version: &str| PluginVersion {
        name: plugin(name),
        digest: Digest::of(bytes),
        kind: PluginKind::Agent,
        title: "Ünïcode".into(),
        version: version.into(),
        description: "line\nline".into(),
        needs: Permissions::new(["file.*".parse().expect("a tool")], Access::Read),
        durable: true,
        input_schema: Some(json(r#"{"b": 1.0, "a": [ ]}"#)),
        output_schema: None,
        tools: vec![ToolDescription {
            name: "t".into(),
            description: "d".into(),
            input_schema: json("true"),
            idempotent: true,
        }],
        bytes: u64::MAX,
        pushed_at: at(7),
    };
    let (a1, a2, b1) = (version("aa", b"1", "1"), version("aa", b"2", "2"), version("bb", b"1", "1"));
    for plugin in [&a1, &a2, &b1] {
        storage.put_plugin(operator, plugin).await.expect("puts");
    }
    assert_eq!(storage.plugins(operator).await.expect("lists"), [a1.clone(), a2.clone(), b1.clone()]);
    // The same bytes under the same name are the same version, pushed again.
    let again = PluginVersion { pushed_at: at(8), kind: PluginKind::Tool, description: String::new(), ..a1 };
    storage.put_plugin(operator, &again).await.expect("puts");
    assert_eq!(storage.plugins(operator).await.expect("lists"), [a2.clone(), b1.clone(), again.clone()]);
    storage.put_plugin(operator, &again).await.expect("puts");
    storage.put_plugin(operator, &b1).await.expect("puts");
    assert_eq!(storage.plugins(operator).await.expect("lists"), [a2, again, b1]);
}

async fn grants_replace_each_other(storage: &dyn Storage) {
    let (operator, user, notes) = (Operator::host(), scope("gil").user().clone(), plugin("notes"));
    let read = |who: &'static str, plugin: PluginName| async move {
        storage.grant(&scope(who), &plugin).await.expect("reads")
    };
    assert_eq!(read("gil", notes.clone()).await, None);
    let wide = Permissions::new(["*".parse().expect("a tool")], Access::ReadWrite);
    let narrow = Permissions::new(["file.read".parse().expect("a tool")], Access::Read);
    for grant in [&wide, &Permissions::none(), &narrow, &narrow] {
        storage.put_grant(operator, &user, &notes, grant).await.expect("puts");
        assert_eq!(read("gil", notes.clone()).await.as_ref(), Some(grant));
    }
    assert_eq!(read("hal", notes).await, None, "another user was granted something");
    assert_eq!(read("gil", plugin("other")).await, None, "another plugin was granted something");
}

async fn keys_are_found_by_their_secret(storage: &dyn Storage) {
    let operator = Operator::host();
    assert_eq!(storage.keys_count(operator).await.expect("counts"), 0);
    let key = |user: &str, role, secret: &[u8]| ApiKey {
        id: KeyId::generate(),
        user: scope(user).user().clone(),
        role,
        secret_digest: Digest::of(secret),
        created_at: at(3),
    };
    let keys = [
        key("kim", Role::User, b"kim's secret"),
        key("kim", Role::User, b"kim's other secret"),
        key("admin", Role::Operator, b"the admin's secret"),
    ];
    for (key, count) in keys.iter().zip(1..) {
        storage.insert_key(operator, key, None).await.expect("inserts");
        storage.insert_key(operator, key, None).await.expect("inserts again, because an answer may be lost");
        assert_eq!(storage.keys_count(operator).await.expect("counts"), count);
    }
    for key in keys {
        let found = storage.authenticate(key.secret_digest).await.expect("reads");
        assert_eq!(found, Some(Identity::authenticated(key.user, key.role, key.id)));
    }
    for stranger in [&b""[..], b"kim", b"kim's secret "] {
        assert_eq!(storage.authenticate(Digest::of(stranger)).await.expect("reads"), None);
    }
}
