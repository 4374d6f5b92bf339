# The pods have no access to the cluster's API: no role is bound to the account, and no token is mounted.
resource "kubernetes_service_account_v1" "this" {
  automount_service_account_token = false

  metadata {
    name        = var.name
    namespace   = var.namespace
    labels      = local.labels
    annotations = var.service_account_annotations
  }
}
