# One job for each run, created when it is applied and never changed afterwards: replacing it would end the
# drain and begin another one. It has no time to live: if it were deleted, the next apply would create it again.
# Removing the run from `runs` deletes it. HCL cannot share a pod between two kinds of
# resource: this one is the same as in cron_job.tf, and a test compares them.
resource "kubernetes_job_v1" "this" {
  for_each = var.runs

  wait_for_completion = false

  metadata {
    name      = "${var.name}-${each.key}"
    namespace = var.namespace
    labels    = local.labels
  }

  spec {
    completion_mode         = "Indexed"
    completions             = local.jobs["run/${each.key}"].slices
    parallelism             = min(local.jobs["run/${each.key}"].slices, var.parallelism)
    active_deadline_seconds = local.jobs["run/${each.key}"].seconds
    backoff_limit_per_index = var.attempts - 1
    # The limit of all pods together: it must not end the job before those of the indexes do.
    backoff_limit = local.jobs["run/${each.key}"].slices * var.attempts
    # The provider sends 0 where it is not set: the first failed slice would end all others.
    max_failed_indexes = local.jobs["run/${each.key}"].slices
    # Exits 2 (wrong use) and 3 (a configured limit) are not tried again. A disruption of the pod (a drained
    # node, a preemption) does not count as an attempt.
    pod_failure_policy {
      rule {
        action = "FailIndex"
        on_exit_codes {
          container_name = "drain"
          operator       = "In"
          values         = [2, 3]
        }
      }
      rule {
        action = "Ignore"
        on_pod_condition {
          type   = "DisruptionTarget"
          status = "True"
        }
      }
    }

    template {
      metadata {
        labels = local.labels
      }

      spec {
        restart_policy                   = "Never"
        active_deadline_seconds          = var.attempt_seconds
        termination_grace_period_seconds = local.settle_seconds
        service_account_name             = kubernetes_service_account_v1.this.metadata[0].name
        automount_service_account_token  = false
        enable_service_links             = false

        security_context {
          run_as_non_root = true
          run_as_user     = "10001"
          run_as_group    = "10001"
          fs_group        = "10001"
          seccomp_profile {
            type = "RuntimeDefault"
          }
        }

        dynamic "image_pull_secrets" {
          for_each = var.image_pull_secrets
          content {
            name = image_pull_secrets.value
          }
        }

        container {
          name  = "drain"
          image = var.image
          args  = ["--backlog", each.value.backlog]

          env_from {
            config_map_ref {
              name = kubernetes_config_map_v1.this.metadata[0].name
            }
          }
          env {
            name  = "BACKLOG_CLEARER_TOTAL"
            value = tostring(local.jobs["run/${each.key}"].slices)
          }
          # All slices of a run share the job's name; with the uid, a later job of that name is another run.
          dynamic "env" {
            for_each = { JOB_NAME = "job-name", JOB_UID = "controller-uid" }
            content {
              name = env.key
              value_from {
                field_ref {
                  field_path = "metadata.labels['batch.kubernetes.io/${env.value}']"
                }
              }
            }
          }
          env {
            name  = "BACKLOG_CLEARER_RUN_ID"
            value = "$(JOB_NAME)-$(JOB_UID)"
          }
          dynamic "env" {
            for_each = var.environment
            content {
              name  = env.key
              value = env.value
            }
          }
          dynamic "env" {
            for_each = var.secrets
            content {
              name = env.key
              value_from {
                secret_key_ref {
                  name = env.value.name
                  key  = env.value.key
                }
              }
            }
          }

          resources {
            requests = { cpu = var.resources.cpu, memory = var.resources.memory }
            limits   = { cpu = var.resources.cpu, memory = var.resources.memory }
          }

          security_context {
            allow_privilege_escalation = false
            privileged                 = false
            read_only_root_filesystem  = true
            run_as_non_root            = true
            capabilities {
              drop = ["ALL"]
            }
          }

          dynamic "volume_mount" {
            for_each = var.receipts.claim[*]
            content {
              name       = "receipts"
              mount_path = local.volume
            }
          }
        }

        dynamic "volume" {
          for_each = var.receipts.claim[*]
          content {
            name = "receipts"
            persistent_volume_claim {
              claim_name = volume.value
            }
          }
        }
      }
    }
  }

  # Neither another configuration of the module nor the labels that the cluster adds repeat a run.
  lifecycle {
    ignore_changes = [spec, metadata[0].labels, metadata[0].annotations]
  }
}
