//! Under construction.
pub(crate) fn run() -> anyhow::Result<()> {
    Ok(())
}
