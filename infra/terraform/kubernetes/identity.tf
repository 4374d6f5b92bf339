# Whoever runs in the pods has nothing to say to the cluster: no role is bound to it, no token given.
resource "kubernetes_service_account_v1" "this" {
  automount_service_account_token = false

  metadata {
    name        = var.name
    namespace   = var.namespace
    labels      = local.labels
    annotations = var.service_account_annotations
  }
}
