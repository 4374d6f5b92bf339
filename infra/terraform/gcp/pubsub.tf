locals {
  # A subscription is named by its id, with project_id, or in full.
  subscriptions = {
    for name, backlog in var.backlogs : name => {
      project      = try(regex("^projects/([^/]+)/", backlog.options.subscription_id)[0], backlog.options.project_id)
      subscription = reverse(split("/", backlog.options.subscription_id))[0]
    } if backlog.system == "googlepubsub"
  }

  subscription_roles = {
    for item in setproduct(keys(local.subscriptions), local.runtimes, ["roles/pubsub.subscriber", "roles/pubsub.viewer"]) :
    join(":", item) => { backlog = item[0], account = item[1], role = item[2] }
  }

  pubsub_projects = toset([for subscription in local.subscriptions : subscription.project])
  pubsub_members  = { for item in setproduct(local.pubsub_projects, local.runtimes) : join(":", item) => { project = item[0], account = item[1] } }
}

# subscriber: read, acknowledge, seek. viewer: read the subscription's configuration.
resource "google_pubsub_subscription_iam_member" "clears" {
  for_each = local.subscription_roles

  project      = local.subscriptions[each.value.backlog].project
  subscription = local.subscriptions[each.value.backlog].subscription
  role         = each.value.role
  member       = google_service_account.this[each.value.account].member
}
