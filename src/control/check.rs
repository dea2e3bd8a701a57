use super::{
    operations::{Operated, Operations},
    report::Checked,
};
impl Operations {
    pub(super) async fn check(&self, _operated: &Operated) -> Vec<Checked> {
        Vec::new()
    }
}
