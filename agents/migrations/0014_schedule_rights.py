from django.apps import apps as installed
from django.contrib.auth.management import create_permissions
from django.db import migrations

LIVE = ("starting", "running", "cancelling")
VIEWER = ["view_schedule", "view_fire", "view_fleet"]
OPERATOR = [*VIEWER, "add_schedule", "change_schedule", "delete_schedule"]
ADMINISTRATOR = [*OPERATOR, "add_fleet", "change_fleet", "delete_fleet", "view_site", "change_site"]
ROLES = {"Viewer": VIEWER, "Operator": OPERATOR, "Administrator": ADMINISTRATOR}


def add_rights(apps, schema_editor):
    """Schedules, fleets and the site's limits for the three roles."""
    using = schema_editor.connection.alias
    # Django makes permissions after the last migration; the groups need them now.
    create_permissions(installed.get_app_config("agents"), verbosity=0, using=using, apps=apps)
    group, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    for name, codenames in ROLES.items():
        role, _ = group.objects.using(using).get_or_create(name=name)
        role.permissions.add(
            *permission.objects.using(using).filter(content_type__app_label="agents", codename__in=codenames)
        )


def remove_rights(apps, schema_editor):
    """The roles as they were."""
    using = schema_editor.connection.alias
    group = apps.get_model("auth", "Group")
    for name, codenames in ROLES.items():
        for role in group.objects.using(using).filter(name=name):
            role.permissions.remove(
                *role.permissions.filter(content_type__app_label="agents", codename__in=codenames)
            )


def count_live_runs(apps, schema_editor):
    """Runs that are live while this is migrated hold a slot, and what follows from their end is due."""
    run = apps.get_model("agents", "Run")
    rows = run.objects.using(schema_editor.connection.alias).filter(state__in=LIVE)
    rows.update(holds_slot=True, followed_up=False)


class Migration(migrations.Migration):

    dependencies = [
        ('agents', '0013_queue_and_schedules'),
    ]

    operations = [
        migrations.RunPython(count_live_runs, migrations.RunPython.noop),
        migrations.RunPython(add_rights, remove_rights),
    ]
