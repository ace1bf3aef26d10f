//! Calls that members make on behalf of clients.

use super::*;

#[test]
fn asserted_principal_is_the_one_of_the_first_member() {
    let cluster = IdentityFixture::new();
    let ann = cluster.by_token(&cluster.session("ann", ""), NOW).unwrap();
    let headers = asserted(&ann, BEGIN_WRITE);
    for caller in [member(), Caller::Plaintext] {
        let found = cluster.by_assertion(&headers, &caller, BEGIN_WRITE).unwrap();
        assert_eq!(found.principal(), ann.principal());
        assert_eq!(found.client_address(), Some("10.1.2.3"));
        assert!(found.can_read(&name("a/t")));
    }
    // The assertion counts, not what else is sent.
    let mut both = headers.clone();
    both.insert(AUTHORIZATION, HeaderValue::from_static("Bearer nonsense"));
    assert_eq!(cluster.by_assertion(&both, &member(), BEGIN_WRITE).unwrap().name(), "ann");
}

#[test]
fn assertion_of_a_client_or_for_another_call_is_refused() {
    let cluster = IdentityFixture::new();
    let ann = cluster.by_token(&cluster.session("ann", ""), NOW).unwrap();
    let headers = asserted(&ann, BEGIN_WRITE);
    for caller in [client("cert"), Caller::Anonymous] {
        let message = unauthenticated(cluster.by_assertion(&headers, &caller, BEGIN_WRITE));
        assert!(message.contains("only members"), "{message}");
    }
    assert!(unauthenticated(cluster.by_assertion(&headers, &member(), GET)).contains(BEGIN_WRITE));
    let forged = ann.assertion(&TicketKey::new(&[8; 32]), GET, NOW).unwrap();
    let mut forged = HeaderMap::from_iter([(http::HeaderName::from_static(ASSERTION_HEADER), forged)]);
    assert!(unauthenticated(cluster.by_assertion(&forged, &member(), GET)).contains("signature"));
    // A good token does not make up for it.
    forged.extend(bearer(&cluster.session("ann", "")));
    unauthenticated(cluster.by_assertion(&forged, &Caller::Plaintext, GET));
    let keyless = Authenticator::new(cluster.handle.clone(), IdentityRules::default(), Arc::new(|| None));
    let unknown = keyless.identify(&headers, &member(), None, BEGIN_WRITE).unwrap_err();
    assert_eq!(unknown.code, Code::Unavailable);
}

#[test]
fn asserted_principal_has_the_rights_of_the_called_member() {
    let mut cluster = IdentityFixture::new();
    let ann = cluster.by_token(&cluster.session("ann", ""), NOW).unwrap();
    let etl = cluster.by_token(&cluster.service_token, NOW).unwrap();
    let [ann, etl] = [&ann, &etl].map(|access| asserted(access, GET));
    // The called member already knows that ann has left her group.
    cluster.change(|snapshot| snapshot.users[0].groups.clear());
    let found = cluster.by_assertion(&ann, &member(), GET).unwrap();
    assert!(!found.can_read(&name("a/t")) && found.principal().unwrap().groups.is_empty());
    cluster.by_assertion(&etl, &member(), GET).unwrap();
    cluster.change(|snapshot| snapshot.tokens.clear());
    assert!(unauthenticated(cluster.by_assertion(&etl, &member(), GET)).contains("revoked"));
    cluster.change(|snapshot| drop(snapshot.users.remove(0)));
    assert!(unauthenticated(cluster.by_assertion(&ann, &member(), GET)).contains("no user \"ann\""));
}

#[test]
fn asserted_groups_of_an_issuer_are_kept() {
    let cluster = IdentityFixture::new();
    let method = LoginMethod::Oidc;
    let eve = Principal { name: "eve".into(), groups: vec!["readers".into()], method, credential: String::new() };
    let eve = Access::of_principal(eve, cluster.handle.load().unwrap());
    let found = cluster.by_assertion(&asserted(&eve, GET), &member(), GET).unwrap();
    assert!(found.can_read(&name("a/t")));
    assert_eq!(found.principal(), eve.principal());
}
