//! How a hot statement is written down: SQL with typed binds between, prepared once per connection. diesel prepares anew what it
//! builds itself for `UPDATE`, `ON CONFLICT DO UPDATE` and many rows.

macro_rules! typed_statement {
    ($backend:ty; $(#[$doc:meta])* $name:ident -> $out:ty { $($sql:literal $(, $field:ident : $rust:ty as $bind:ty)? ;)+ }) => {
        $(#[$doc])*
        pub(super) struct $name<'a> { $($(pub(super) $field: $rust,)?)+ }

        impl<'a> diesel::query_builder::QueryFragment<$backend> for $name<'a> {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, $backend>,
            ) -> diesel::QueryResult<()> {
                $(
                    out.push_sql($sql);
                    $(out.push_bind_param::<$bind, $rust>(&self.$field)?;)?
                )+
                Ok(())
            }
        }

        impl diesel::query_builder::QueryId for $name<'_> {
            type QueryId = $name<'static>;
            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl diesel::query_builder::Query for $name<'_> {
            type SqlType = $out;
        }
    };
}

pub(super) use typed_statement;
