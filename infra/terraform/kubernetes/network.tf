resource "kubernetes_network_policy_v1" "this" {
  metadata {
    name      = var.name
    namespace = var.namespace
    labels    = local.labels
  }

  spec {
    policy_types = ["Ingress", "Egress"] # no ingress block: all ingress is denied

    pod_selector {
      match_labels = local.selector
    }

    egress {
      to {
        namespace_selector {}
        pod_selector {
          match_labels = { "k8s-app" = "kube-dns" }
        }
      }
      ports {
        port     = "53"
        protocol = "UDP"
      }
      ports {
        port     = "53"
        protocol = "TCP"
      }
    }

    dynamic "egress" {
      for_each = var.egress
      content {
        to {
          ip_block {
            cidr = egress.value.cidr
          }
        }
        ports {
          port     = tostring(egress.value.port)
          end_port = egress.value.end_port
          protocol = egress.value.protocol
        }
      }
    }
  }
}
