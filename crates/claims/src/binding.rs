//! Binding a volume and a claim to each other, and undoing it (`bind`, `unbindVolume` and `updateClaimStatus` in
//! `pkg/controller/volume/persistentvolume/pv_controller.go`).

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

use crate::change::About;
use crate::disk::is_provisioned;
use crate::fields::{
    annotate, annotate_once, annotation, capacity, claim_phase, claim_reference, is_bound_to, is_pending,
    remove_annotation, set_volume_phase, storage, text, volume_name, volume_phase,
};
use crate::keys::{self, phase};
use crate::pass::{Pass, VOLUME_CONTROLLER};

/// Makes the volume refer to the claim (`GetBindVolumeToClaim`).
pub(crate) fn reserve(volume: &mut PersistentVolume, claim: &PersistentVolumeClaim) {
    let was_reserved = is_bound_to(volume, claim);
    let is_complete = was_reserved && claim_reference(volume).is_some_and(|own| own.uid == claim.metadata.uid);
    if !is_complete {
        volume.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    }
    if !was_reserved {
        annotate_once(&mut volume.metadata, keys::BOUND_BY_CONTROLLER);
    }
}

/// `GetReference`
pub(crate) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Binds both to each other. Changes nothing if they are bound.
pub(crate) fn bind(pass: &mut Pass<'_>, mut volume: PersistentVolume, mut claim: PersistentVolumeClaim) {
    let was_new = is_pending(volume_phase(&volume));
    reserve(&mut volume, &claim);
    set_volume_phase(&mut volume, phase::BOUND, "", &pass.state.now);
    let name = text(&volume.metadata.name);
    if volume_name(&claim) != name {
        claim.spec.get_or_insert_default().volume_name = Some(name.to_owned());
        annotate_once(&mut claim.metadata, keys::BOUND_BY_CONTROLLER);
    }
    if annotation(&claim.metadata, keys::BIND_COMPLETED).is_none() {
        annotate(&mut claim.metadata, keys::BIND_COMPLETED, keys::YES);
    }
    set_claim_phase(&mut claim, phase::BOUND, Some(&volume));
    if was_new && is_provisioned(&volume) {
        let message = format!("Successfully provisioned volume {name} using {}", keys::PROVISIONER);
        pass.event(
            About::claim(&claim),
            false,
            "ProvisioningSucceeded",
            message,
            VOLUME_CONTROLLER,
        );
    }
    pass.put_volume(volume);
    pass.put_claim(claim);
}

/// Frees a volume whose claim is bound to another one.
pub(crate) fn unbind(volume: &mut PersistentVolume, pass: &Pass<'_>) {
    if annotation(&volume.metadata, keys::BOUND_BY_CONTROLLER).is_some() {
        remove_annotation(&mut volume.metadata, keys::BOUND_BY_CONTROLLER);
        volume.spec.get_or_insert_default().claim_ref = None;
    } else if let Some(reference) = &mut volume.spec.get_or_insert_default().claim_ref {
        // The user has reserved it; it stays reserved.
        reference.uid = None;
    }
    set_volume_phase(volume, phase::AVAILABLE, "", &pass.state.now);
}

/// Sets the phase of a claim, and the access modes and the capacity of its volume.
pub(crate) fn set_claim_phase(claim: &mut PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) {
    let is_new = claim_phase(claim) != phase;
    let status = claim.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    let Some(volume) = volume else {
        status.access_modes = None;
        status.capacity = None;
        return;
    };
    status.access_modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone());
    // The capacity of a claim that is bound changes only when its volume grows.
    if is_new && storage(status.capacity.as_ref()) != storage(capacity(volume)) {
        status.capacity = capacity(volume).cloned();
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{claim, state, volume};

    use super::*;

    #[test]
    fn both_refer_to_each_other_and_say_who_bound_them() {
        let state = state();
        let mut pass = Pass::new(&state);
        bind(&mut pass, volume("disk", "2Gi"), claim("data", "1Gi"));
        let (bound, claimed) = (&pass.volumes["disk"], pass.claims.values().next().unwrap());
        assert_eq!(volume_phase(bound), "Bound");
        assert_eq!(claim_phase(claimed), "Bound");
        assert_eq!(volume_name(claimed), "disk");
        assert_eq!(annotation(&bound.metadata, keys::BOUND_BY_CONTROLLER), Some("yes"));
        assert_eq!(annotation(&claimed.metadata, keys::BIND_COMPLETED), Some("yes"));
        assert_eq!(annotation(&claimed.metadata, keys::BOUND_BY_CONTROLLER), Some("yes"));
        let reference = claim_reference(bound).unwrap();
        assert_eq!(reference.uid, claimed.metadata.uid);
        assert_eq!(reference.kind.as_deref(), Some("PersistentVolumeClaim"));
        let status = claimed.status.as_ref().unwrap();
        assert_eq!(status.capacity.as_ref().unwrap()["storage"].0, "2Gi");
        assert_eq!(status.access_modes.as_ref().unwrap(), &["ReadWriteOnce"]);
        let before = (bound.clone(), claimed.clone());
        bind(&mut pass, before.0.clone(), before.1.clone());
        let after = (
            pass.volumes["disk"].clone(),
            pass.claims.values().next().unwrap().clone(),
        );
        assert!(before == after, "binding again changes something");
    }

    #[test]
    fn a_reserved_volume_stays_reserved_when_it_is_freed() {
        let state = state();
        let pass = Pass::new(&state);
        let mut reserved = volume("disk", "1Gi");
        reserved.spec.as_mut().unwrap().claim_ref = Some(reference(&claim("data", "1Gi")));
        unbind(&mut reserved, &pass);
        let left = claim_reference(&reserved).unwrap();
        assert_eq!((left.name.as_deref(), left.uid.as_deref()), (Some("data"), None));
        let mut found = volume("disk", "1Gi");
        reserve(&mut found, &claim("data", "1Gi"));
        unbind(&mut found, &pass);
        assert_eq!(claim_reference(&found), None);
        assert_eq!(found.metadata.annotations, None);
    }
}
