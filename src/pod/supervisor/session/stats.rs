//! Resource usage of a Pod's containers.

use std::time::Duration;

use microkube_protocol::messages::StatsResponse;
use ttrpc::context::with_duration;

use super::super::pod_view::PodView;
use super::refusal::Refusal;
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::supervisor_protocol::ContainerUsage;

/// Time between the two samples of CPU time.
const STATS_INTERVAL: Duration = Duration::from_millis(200);

/// The containers' current resource usage.
pub async fn usage(view: &PodView) -> Result<Vec<ContainerUsage>, Refusal> {
    let agent = view.agent().ok_or(Refusal::NoMachine)?;
    let look = async || agent.stats(with_duration(CALL_TIMEOUT), &Default::default()).await;
    let first: StatsResponse = look().await?;
    let start = std::time::Instant::now();
    // CPU usage is a rate, so there is no event to wait for.
    tokio::time::sleep(STATS_INTERVAL).await;
    let second = look().await?;
    let elapsed_us = start.elapsed().as_micros().max(1);
    let mut usage: Vec<ContainerUsage> = view
        .containers()
        .into_iter()
        .filter_map(|(container, id)| {
            let of = |stats: &StatsResponse| stats.containers.iter().find(|one| one.id == id).cloned();
            let (before, after) = (of(&first)?, of(&second)?);
            let used_us = u128::from(after.cpu_usage_us.saturating_sub(before.cpu_usage_us));
            Some(ContainerUsage {
                container,
                cpu_nanocores: u64::try_from(used_us * 1_000_000_000 / elapsed_us).unwrap_or(u64::MAX),
                memory_bytes: after.memory_working_set_bytes,
            })
        })
        .collect();
    usage.sort_by(|one, other| one.container.cmp(&other.container));
    Ok(usage)
}
